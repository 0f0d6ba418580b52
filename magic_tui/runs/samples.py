"""The configs that come with magic."""

from pathlib import Path

from engine.runs.errors import UsageError


def demo_config() -> Path:
    """The demo's config: of the repository, or of the installed package.

    Raises:
        UsageError: if neither is there.
    """
    import magic_tui

    package = Path(magic_tui.__file__).resolve().parent
    places = (package.parent / "sample_configs", package / "sample_configs")
    for place in places:
        if (place / "demo.yaml").is_file():
            return place / "demo.yaml"
    raise UsageError(f"the demo's config is not in {places[0]} or {places[1]}; install magic again")

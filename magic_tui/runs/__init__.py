"""Runs: the list, one run in detail, a new run."""

from pathlib import Path

from engine.runs.errors import UsageError


def demo_config() -> Path:
    """The demo's config, from the repository or the installed package.

    Raises:
        UsageError: if it is in neither.
    """
    import magic_tui

    package = Path(magic_tui.__file__).resolve().parent
    folders = (package.parent / "sample_configs", package / "sample_configs")
    for folder in folders:
        if (folder / "demo.yaml").is_file():
            return folder / "demo.yaml"
    raise UsageError(f"demo.yaml is in neither {folders[0]} nor {folders[1]}; reinstall magic")

"""The fields of a run's config under dotted names, in which two runs can be compared."""

from typing import Any

from engine.runs.run_folder import RunFolder


def config_fields(run: RunFolder) -> dict[str, Any]:
    """By dotted name, such as ``training.optimizer.name``, the value of every field.

    Raises:
        UsageError: if the config cannot be read.
    """
    # Only where configs are compared are their models wanted, which take long to load.
    from engine.runs.config import as_plain

    found: dict[str, Any] = {}

    def walk(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[prefix + key] = value

    walk(as_plain(run.config()), "")
    return found

"""Handing a config to the engine: shared by ``run`` and ``demo``."""

from pathlib import Path
from typing import Any

from engine.contract.config import RunConfig, as_plain
from engine.contract.read_config import read_config
from engine.records.naming import new_run_id
from magic_tui.cli.output import narrate
from magic_tui.client.engine import Engine, connect

FOREIGN_CODE = "it executes code that comes with the model (model.trust_remote_code: true)"


def submit_config(
    path: Path, runs_dir: Path | None, force: tuple[str, ...] = ()
) -> tuple[Engine, dict[str, Any]]:
    """Check a config and queue its run; the engine to follow it with, and the run.

    Raises:
        UsageError: if the config is wrong.
        UnreachableError: if no engine can be reached.
        RefusedError: if the engine refuses it.
    """
    config = _forced(read_config(path), force)
    if config.model.trust_remote_code:
        narrate(f"note: {FOREIGN_CODE}")
    engine = connect(runs_dir)
    return engine, engine.submit(new_run_id(), as_plain(config))


def _forced(config: RunConfig, force: tuple[str, ...]) -> RunConfig:
    """The config with checks overridden from the command line as well."""
    names = dict.fromkeys([*config.force, *(str(name) for name in force)])
    return config.model_validate({**config.model_dump(), "force": list(names)})

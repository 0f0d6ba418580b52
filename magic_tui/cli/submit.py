"""Submit a config to the engine: shared by ``run`` and ``demo``."""

from pathlib import Path
from typing import Any

from engine.runs.config import as_plain
from engine.runs.loaded_code import code_of
from engine.runs.read_config import forced_config
from engine.runs.run_folder import new_run_id
from magic_tui.cli.output import narrate
from magic_tui.client.engine import Engine, connect
from magic_tui.queries.check_queries import check_config


def submit_config(
    path: Path, runs_dir: Path | None, force: tuple[str, ...] = (), seed: int | None = None
) -> tuple[Engine, dict[str, Any]]:
    """Check a config and queue its run; returns the engine and the run's view.

    Args:
        path: the config.
        runs_dir: where runs live.
        force: checks overridden from the command line as well.
        seed: in place of the config's.

    Raises:
        UsageError: if the config is invalid.
        WorkerError: if its queries are invalid.
        UnreachableError: if no engine can be reached.
        RefusedError: if the engine refuses it.
    """
    config = forced_config(path, [str(name) for name in force])
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    if config.queries is not None:
        check_config(path)
    for line in code_of(config):
        narrate(f"note: runs code: {line}")
    engine = connect(runs_dir)
    view = engine.submit(new_run_id(), as_plain(config))
    if engine.cut_off:
        narrate(f"run {view['id']} is {view['state']}: {view['reason']}")
    return engine, view

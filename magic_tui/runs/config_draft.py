"""A config that is being edited: its fields, their problems, and the cost of its run."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from engine.runs.config import RunConfig, as_plain
from engine.runs.read_config import parse_config, read_config
from engine.runs.temporary import scratch_folder
from magic_tui.client.worker import Facts, run_worker

Key = tuple[str, ...]


@dataclass(frozen=True)
class Field:
    """An editable field."""

    key: Key
    name: str
    words: str
    is_number: bool = False


FIELDS = (
    Field(("name",), "name", "name of the run"),
    Field(("model", "path"), "model", "a folder or a Hugging Face id"),
    Field(("data", "path"), "training data", "a file, folder or Hugging Face id"),
    Field(("data", "sequence_length"), "row length", "tokens per row", True),
    Field(("training", "epochs"), "epochs", "passes over the data", True),
    Field(("training", "batch_size"), "batch size", "rows per step", True),
    Field(("training", "optimizer", "name"), "optimizer", "adamw, adam or sgd"),
    Field(("training", "optimizer", "learning_rate"), "learning rate", "peak value", True),
    Field(("queries", "path"), "queries", "texts to attribute; may be empty"),
    Field(("attribution", "granularity"), "granularity", "token or document scores"),
    Field(("trajectory", "checkpointing"), "checkpointing", "auto, all, gradients, sqrt or log"),
    Field(("seed",), "seed", "of data order and initial weights", True),
)
_NUMBERS = frozenset(field.key for field in FIELDS if field.is_number)
_PATHS: tuple[Key, ...] = (("model", "path"), ("data", "path"))


class Draft:
    """The values of a config, valid or not."""

    def __init__(self, path: Path) -> None:
        """Read a config file.

        Raises:
            UsageError: if it is not a config.
        """
        self.path = path
        self.values: dict[str, Any] = as_plain(read_config(path))

    def text(self, key: Key) -> str:
        """A field as text; empty if unset."""
        value: Any = self.values
        for part in key:
            value = value.get(part) if isinstance(value, Mapping) else None
        return "" if value is None else str(value)

    def change(self, key: Key, text: str) -> None:
        """Set a field from text."""
        values = deepcopy(self.values)
        if key == ("queries", "path"):
            old = values.get("queries") or {}
            values["queries"] = {**old, "path": text} if text else None
        else:
            block = values
            for part in key[:-1]:
                block = block[part]
            block[key[-1]] = _number(text) if key in _NUMBERS else text
        self.values = values

    def problems(self) -> dict[Key, str]:
        """Problems by field."""
        try:
            RunConfig.model_validate(self.values)
        except ValidationError as error:
            return {
                tuple(str(part) for part in problem["loc"]): _plain(problem)
                for problem in error.errors()
            }
        return {path: "give a path" for path in _PATHS if not self.text(path)}

    def config(self) -> RunConfig:
        """The validated config.

        Raises:
            UsageError: if a field is invalid.
        """
        return parse_config(deepcopy(self.values), self.path)


def cost_of(config: RunConfig, runs: Path, is_cancelled: Callable[[], bool]) -> Facts:
    """Estimate the cost of a run in a worker process; takes some seconds.

    Args:
        config: the config.
        runs: the folder of runs.
        is_cancelled: the process is stopped once it returns True.

    Raises:
        WorkerError: if data or model cannot be read.
    """
    with scratch_folder("plan") as folder:
        file = folder / "plan.yaml"
        file.write_text(yaml.safe_dump(as_plain(config), sort_keys=False))
        return run_worker(["plan", "--config", str(file), "--runs", str(runs)], is_cancelled)


def field_of(problem: str) -> Key | None:
    """The field that a worker's message names, such as ``data.path: no file …``."""
    named = (f.key for f in FIELDS if problem.startswith(".".join(f.key) + ":"))
    return next(named, None)


def _plain(problem: Mapping[str, Any]) -> str:
    """A validation error as one sentence."""
    kind, facts = problem["type"], problem.get("ctx") or {}
    if kind in ("int_parsing", "int_type", "int_from_float"):
        return "give a whole number"
    if kind in ("float_parsing", "float_type"):
        return "give a number, such as 0.001 or 1e-3"
    if kind == "finite_number":
        return "too large a number"
    if kind == "greater_than_equal":
        return f"give {facts['ge']:g} or more"
    if kind == "less_than":
        return f"give less than {facts['lt']}"
    if kind == "literal_error":
        return f"give {str(facts['expected']).replace(chr(39), '')}"
    if kind == "string_too_short":
        return "give a name"
    if kind == "string_too_long":
        return f"give at most {facts['max_length']} characters"
    return str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")


def _number(text: str) -> Any:
    """A number, such as ``1e-4``; other text is returned unchanged for validation to report."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

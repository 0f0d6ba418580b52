"""A config being edited: its fields, what is wrong with them, and what its run would cost."""

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
    """A field that can be edited."""

    key: Key
    name: str
    words: str
    is_number: bool = False


FIELDS = (
    Field(("name",), "name", "what the run is called"),
    Field(("model", "path"), "model", "a folder or a hub id"),
    Field(("data", "path"), "training data", "a file, a folder or a hub id"),
    Field(("data", "sequence_length"), "row length", "tokens in a row", True),
    Field(("training", "epochs"), "epochs", "how often every document is seen", True),
    Field(("training", "batch_size"), "batch size", "rows a step", True),
    Field(("training", "optimizer", "name"), "optimizer", "adamw, adam or sgd"),
    Field(("training", "optimizer", "learning_rate"), "learning rate", "at its highest", True),
    Field(("queries", "path"), "queries", "texts to ask about; empty: ask later"),
    Field(("attribution", "granularity"), "scores of", "token or document"),
    Field(("trajectory", "checkpointing"), "schedule", "auto, all, gradients, sqrt or log"),
    Field(("seed",), "seed", "of order and fresh weights", True),
)
_NUMBERS = frozenset(field.key for field in FIELDS if field.is_number)
_PATHS: tuple[Key, ...] = (("model", "path"), ("data", "path"))


class Draft:
    """A config's values as they stand, right or wrong."""

    def __init__(self, path: Path) -> None:
        """Begin with the config in a file.

        Raises:
            UsageError: if that is no config.
        """
        self.path = path
        self.values: dict[str, Any] = as_plain(read_config(path))

    def text(self, key: Key) -> str:
        """A field as text; empty if it is not set."""
        value: Any = self.values
        for part in key:
            value = value.get(part) if isinstance(value, Mapping) else None
        return "" if value is None else str(value)

    def change(self, key: Key, text: str) -> None:
        """Set a field from text; numbers are numbers where one belongs."""
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
        """What is wrong, by field."""
        try:
            RunConfig.model_validate(self.values)
        except ValidationError as error:
            return {
                tuple(str(part) for part in problem["loc"]): _plain(problem)
                for problem in error.errors()
            }
        return {path: "give a path" for path in _PATHS if not self.text(path)}

    def config(self) -> RunConfig:
        """The config.

        Raises:
            UsageError: if anything is wrong with it.
        """
        return parse_config(deepcopy(self.values), self.path)


def cost_of(config: RunConfig, runs: Path, is_unwanted: Callable[[], bool]) -> Facts:
    """What a run of ``config`` would take; a process of its own finds out, in some seconds.

    It is ended as soon as ``is_unwanted`` says so.

    Raises:
        WorkerError: if it cannot be found out: the data or the model are not as the config says.
    """
    with scratch_folder("plan") as folder:
        file = folder / "plan.yaml"
        file.write_text(yaml.safe_dump(as_plain(config), sort_keys=False))
        return run_worker(["plan", "--config", str(file), "--runs", str(runs)], is_unwanted)


def field_of(problem: str) -> Key | None:
    """The field that a sentence of the worker is about, such as ``data.path: no file …``."""
    named = (f.key for f in FIELDS if problem.startswith(".".join(f.key) + ":"))
    return next(named, None)


def _plain(problem: Mapping[str, Any]) -> str:
    """What is wrong, in one's own words rather than those of the library that found it."""
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
    """A number, ``1e-4`` too; what is none as text, so that it can be told."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

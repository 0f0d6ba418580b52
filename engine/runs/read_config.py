"""Read a run config from YAML; every fault becomes one sentence."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from engine.runs.config import CAUSAL_LM, IMAGE_CLASSIFICATION, RunConfig
from engine.runs.errors import UsageError

RECORD_KEY = "magic"
"""The block of a stored ``run_config.yaml`` about the run itself; not part of the config."""

_PATHS = (("model",), ("data",), ("queries",), ("queries", "contrast"))

# words: off
_RENAMED = {
    "training.schedule": "training.lr_schedule",
    "training.recompute": "training.activation_checkpointing",
    "training.optimizer.bias_scale": "training.optimizer.bias_lr_multiplier",
    "trajectory.schedule": "trajectory.checkpointing",
}
# words: on
"""Renamed keys and their present names."""
_REMOVED = {"attribution.query_tolerance": "queries are replayed exactly"}
"""Removed keys and the reason."""


class _Loader(yaml.SafeLoader):
    """YAML without aliases (no exponential documents), duplicate keys, or 1e-4 read as text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise UsageError(f"line {mark.line + 1}: YAML aliases are not supported; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError(f"line {key.start_mark.line + 1}: a key must be a name")
            if key.value in seen:
                raise UsageError(f"line {key.start_mark.line + 1}: {key.value} is given twice")
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


def read_config(path: Path) -> RunConfig:
    """The config in a YAML file, local paths made absolute.

    Raises:
        UsageError: naming the file, the key and the remedy.
    """
    return parse_config(_load(path), path)


def forced_config(path: Path, force: Sequence[str]) -> RunConfig:
    """A config file with further checks overridden on the command line."""
    config = read_config(path)
    names = dict.fromkeys([*config.force, *force])
    return config.model_validate({**config.model_dump(), "force": list(names)})


def parse_config(values: Any, path: Path) -> RunConfig:
    """A config from the values of a user's file; ``path`` names it in messages.

    Raises:
        UsageError: naming the key and the remedy.
    """
    if isinstance(values, dict):
        values = _with_absolute_paths(values, path.parent)
    return stored_config(values, path)


def stored_config(values: Any, path: Path) -> RunConfig:
    """A config from plain values; paths are not changed.

    Raises:
        UsageError: naming the key and the remedy.
    """
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected keys such as model and data, found {_kind(values)}")
    values = {key: value for key, value in values.items() if key != RECORD_KEY}
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{path}: {_sentence(error)}") from None
    if config.queries is not None and config.queries.path == "":
        raise UsageError(f"{path}: queries.path is empty; name a file, a folder or a hub id")
    return config


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"no config file at {path}; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    try:
        return yaml.load(text, Loader=_Loader)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UsageError(f"{path}: {line}not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not valid YAML: {error}") from None


def _with_absolute_paths(values: dict[str, Any], beside: Path) -> dict[str, Any]:
    """Local paths made absolute: relative to the current folder, else to the config's own."""
    resolved = dict(values)
    task = values.get("task", CAUSAL_LM)
    if isinstance(task, str) and ":" in task:
        resolved["task"] = _task_file(task, beside)
    # For images it is the name of a built-in model, even if a file has the same name.
    for keys in _PATHS[1:] if task == IMAGE_CLASSIFICATION else _PATHS:
        block = resolved
        for key in keys[:-1]:
            block = block.get(key) if isinstance(block, dict) else None  # type: ignore[assignment]
        section = block.get(keys[-1]) if isinstance(block, dict) else None
        if isinstance(section, dict) and isinstance(section.get("path"), str):
            block[keys[-1]] = {**section, "path": absolute_path(section["path"], beside)}
            if len(keys) == 1:
                resolved[keys[0]] = block[keys[-1]]
    return resolved


def _task_file(task: str, beside: Path) -> str:
    """``module:object`` with the path of the module's file, if it is here or in ``beside``."""
    module, _, name = task.rpartition(":")
    file = module if module.endswith(".py") else f"{module.replace('.', '/')}.py"
    file_path = absolute_path(file, beside)
    return f"{file_path}:{name}" if Path(file_path).is_absolute() else task


def absolute_path(path: str, beside: Path) -> str:
    """The absolute path if it exists in the current folder or ``beside``; else ``path``."""
    if not path:
        return path
    expanded = Path(path).expanduser()
    for base in (Path.cwd(), beside):
        candidate = base / expanded
        if candidate.exists():
            return str(candidate.resolve())
    return path


def _sentence(error: ValidationError) -> str:
    problems = error.errors()
    # An unknown key usually causes the other errors, so it is reported first.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    location = [part for part in first["loc"] if isinstance(part, str | int)]
    key = ".".join(str(part) for part in location) or "config"
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    if key in _RENAMED:
        return f"{key} is now called {_RENAMED[key]}; rename it{more}"
    if key in _REMOVED:
        return f"{key} was removed: {_REMOVED[key]}; remove it{more}"
    if first["type"] == "extra_forbidden":
        return f"{key} is not a known key; {_suggestion(location)}{more}"
    if first["type"] == "missing":
        return f"{key} is missing; add it{more}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {message}{more}"
    message = message.removeprefix("Input should be ")
    if message == first["msg"]:
        return f"{key}: {message}, got {_shown(first['input'])}{more}"
    return f"{key} should be {message}, got {_shown(first['input'])}{more}"


def _suggestion(location: list[Any]) -> str:
    section: type[BaseModel] = RunConfig
    for part in location[:-1]:
        section = _section_of(section, str(part))
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    return f"known here: {', '.join(known)}"


def _section_of(section: type[BaseModel], field: str) -> type[BaseModel]:
    annotation = section.model_fields[field].annotation
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))


def _shown(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return _kind(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    known = {"dict": "a mapping", "list": "a list", "tuple": "a list", "str": "text"}
    kind = type(value).__name__
    return known.get(kind, kind)

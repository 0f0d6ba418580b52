"""Output of the verbs: facts to stdout, narration and errors to stderr, JSON with ``--json``."""

import functools
import json
import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO

import typer

from engine.runs.errors import ExitCode, MagicError
from engine.runs.safe_text import safe_text

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1
Arguments = ParamSpec("Arguments")


def stdout() -> "Console":
    """A console for facts."""
    return _console(sys.stdout)


def stderr() -> "Console":
    """A console for narration."""
    return _console(sys.stderr)


def has_colour(console: "Console") -> bool:
    """Whether to use colour: on a terminal, unless NO_COLOR is set."""
    return console.is_terminal and not console.no_color and console.color_system is not None


def print_json(facts: dict[str, Any]) -> None:
    """Print the object of ``--json``; numbers that JSON cannot represent become null."""
    typer.echo(json.dumps({"schema_version": SCHEMA_VERSION, **finite(facts)}))


def reports_errors(verb: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Print a verb's error as one sentence on stderr and exit with its documented code."""

    @functools.wraps(verb)
    def reporting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        hint, facts = "", dict[str, Any]()
        try:
            verb(*args, **kwargs)
        except MagicError as error:
            for line in getattr(error, "last_lines", ()):
                narrate(f"  {line}")
            message, code = str(error), int(error.exit_code)
            hint, facts = getattr(error, "hint", ""), getattr(error, "facts", {})
        except KeyboardInterrupt:
            message, code = "interrupted", int(ExitCode.INTERRUPTED)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            message, code = f"{where}{error.strerror or error}", int(ExitCode.RUN_FAILED)
        else:
            return
        narrate(f"magic: {message}")
        if hint:
            narrate(f"  {hint}")
        if kwargs.get("as_json"):
            print_json({"error": {"message": message, "exit_code": code}, **facts})
        raise typer.Exit(code)

    return reporting


def narrate(sentence: str) -> None:
    """Print a sentence to stderr."""
    typer.echo(safe_text(sentence), err=True)


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return Console(file=stream, markup=False, emoji=False, highlight=False, soft_wrap=False)


def finite(value: Any) -> Any:
    """The value with null for every number that JSON cannot represent."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value

"""The input files of a run: their digests, the run's copies, and which of them changed."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.runs.atomic import write_atomically
from engine.runs.errors import UsageError

COPIES_FOLDER = "made_from"
"""The folder of a run that contains the copies."""
_AGAIN = "or run the config again as a new run"
_MOST_NAMED = 3
_SHORT = 12


@dataclass(frozen=True)
class InputFile:
    """An input file of a run, and the run's copy of it."""

    name: str
    original: Path
    copy: Path
    sha256: str

    @classmethod
    def store(cls, name: str, original: Path, copy: Path) -> "InputFile":
        """Copy a file into a run."""
        data = original.read_bytes()
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, data)
        return cls(name, original, copy, hashlib.sha256(data).hexdigest())

    @property
    def is_changed(self) -> bool:
        """Whether the original was changed or removed."""
        return file_digest(self.original) != self.sha256

    @property
    def copy_is_intact(self) -> bool:
        """Whether the copy still has its digest."""
        return file_digest(self.copy) == self.sha256


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def copies_to_use(files: Iterable[InputFile], added: Iterable[str], where: str) -> str | None:
    """A warning that the run's copies of changed files are used; None if no file changed.

    Args:
        files: the input files of the run.
        added: names of files that did not exist when the run was prepared.
        where: what the files belong to, for messages.

    Raises:
        UsageError: if a file changed and its copy is damaged.
    """
    known = list(files)
    changed = [file for file in known if file.is_changed]
    names = [*(file.name for file in changed), *added]
    if not names:
        return None
    lost = [file.name for file in known if not file.copy_is_intact]
    if lost:
        raise UsageError(
            f"{listed(names)} of {where} changed since the run was prepared, and the run's copy of "
            f"{listed(lost)} is damaged; restore the file, {_AGAIN}"
        )
    return (
        f"{listed(names)} of {where} changed since the run was prepared; the run's own copy is used"
    )


def refused(what: str, why: str = "") -> UsageError:
    """The error for a changed input of which the run has no copy."""
    because = f" ({why})" if why else ""
    return UsageError(f"{what} changed since the run was prepared{because}; restore it, {_AGAIN}")


def short_form(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The record ``fingerprint`` of a run for display: one short digest of each part."""
    model, code = facts.get("model"), facts.get("code") or {}
    digests: dict[str, Any] = {
        "weights": combined(facts["weights"])[:_SHORT],
        "data": str(facts["data"])[:_SHORT],
    }
    if model:
        digests |= {"files": combined(model["files"])[:_SHORT], "commit": model["commit"]}
        code = {name: {"sha256": digest} for name, digest in model["code"].items()}
    if code:
        digests["code"] = combined({n: each["sha256"] for n, each in code.items()})[:_SHORT]
    return {**digests, "libraries": dict(facts["libraries"])}


def listed(names: Iterable[str]) -> str:
    """The first few names, and the number of the others."""
    every = list(names)
    first, more = every[:_MOST_NAMED], len(every) - _MOST_NAMED
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ between two mappings, in the order of the first."""
    every = dict.fromkeys([*before, *now])
    return [name for name in every if before.get(name) != now.get(name)]


def combined(digests: Mapping[str, Any]) -> str:
    """One digest of several, independent of their order."""
    lines = "\n".join(f"{name} {digests[name]}" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()

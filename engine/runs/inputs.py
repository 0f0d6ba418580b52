"""Files that a run was made from: their digests, the run's own copies, and what became of them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.runs.atomic import write_atomically
from engine.runs.errors import UsageError

KEPT = "made_from"
"""The folder of a run that holds its copies."""
_AGAIN = "or run the config again as a new run"
_MOST_NAMED = 3
_SHORT = 12


@dataclass(frozen=True)
class KeptFile:
    """A file that a run was made from, and where the run keeps a copy of it."""

    name: str
    original: Path
    copy: Path
    sha256: str

    @classmethod
    def keep(cls, name: str, original: Path, copy: Path) -> "KeptFile":
        """Copy a file into a run."""
        data = original.read_bytes()
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(copy, data)
        return cls(name, original, copy, hashlib.sha256(data).hexdigest())

    @property
    def is_changed(self) -> bool:
        """Whether the original is another than it was, or gone."""
        return file_digest(self.original) != self.sha256

    @property
    def is_kept(self) -> bool:
        """Whether the copy is as it was."""
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


def copies_to_use(files: Iterable[KeptFile], added: Iterable[str], where: str) -> str | None:
    """None if files are what they were; else the warning that the run's copies are used.

    Args:
        files: those that the run was made from.
        added: names of files that were not there.
        where: what they belong to, for the messages.

    Raises:
        UsageError: if a file changed and its copy is damaged.
    """
    known = list(files)
    changed = [file for file in known if file.is_changed]
    names = [*(file.name for file in changed), *added]
    if not names:
        return None
    lost = [file.name for file in known if not file.is_kept]
    if lost:
        raise UsageError(
            f"{listed(names)} of {where} changed since the run was prepared, and the run's copy of "
            f"{listed(lost)} is damaged; restore the file, {_AGAIN}"
        )
    return (
        f"{listed(names)} of {where} changed since the run was prepared; the run's own copy is used"
    )


def refused(what: str, why: str = "") -> UsageError:
    """The error for something that changed and that the run keeps no copy of."""
    because = f" ({why})" if why else ""
    return UsageError(
        f"{what} changed since the run was prepared{because}; restore what was there, {_AGAIN}"
    )


def short_form(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The record ``fingerprint`` of a run as it is shown: one short digest of each part."""
    model, code = facts.get("model"), facts.get("code") or {}
    found: dict[str, Any] = {
        "weights": combined(facts["weights"])[:_SHORT],
        "data": str(facts["data"])[:_SHORT],
    }
    if model:
        found |= {"files": combined(model["files"])[:_SHORT], "commit": model["commit"]}
        code = {name: {"sha256": digest} for name, digest in model["code"].items()}
    if code:
        found["code"] = combined({n: each["sha256"] for n, each in code.items()})[:_SHORT]
    return {**found, "libraries": dict(facts["libraries"])}


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    shown, more = every[:_MOST_NAMED], len(every) - _MOST_NAMED
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names under which two mappings do not say the same, in the order of the first."""
    every = dict.fromkeys([*before, *now])
    return [name for name in every if before.get(name) != now.get(name)]


def combined(digests: Mapping[str, Any]) -> str:
    """One digest of many, whatever their order."""
    lines = "\n".join(f"{name} {digests[name]}" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()

"""Saving a replay between two of its steps, so that it can go on from there.

A journal beside the scores names what is there: ``saved`` the files of one pass of queries at
one step, ``written`` the queries whose scores are complete in the score store. Of the saves only
the latest stays.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.replay.state import Cotangent
from engine.runs.errors import RunError
from engine.runs.journal import JournalWriter, read_journal
from engine.trajectory.save_pace import SAVE_SECONDS, SavePace
from engine.trajectory.tensor_files import (
    DamagedFileError,
    read_tensors,
    remove_unfinished,
    write_tensors,
)

JOURNAL = "replay.jsonl"
_REST = ("scores", "steps", "measurements", "signals")
"""What of a :class:`ReplayState` is saved beside its cotangents, in its order."""


@dataclass
class ReplayState:
    """A pass of queries on its way from s_T to s_0."""

    step: int
    """The cotangents are those at s_step; steps below are still to come."""
    cotangents: list[Cotangent]
    """One per query."""
    scores: Tensor
    """(query, *shape of the stream's weights), so far."""
    steps: Tensor
    """(query, step): the sum over each step, so far."""
    measurements: Tensor
    """(query,): φ at the end of training."""
    signals: Tensor
    """(query, step, signal), so far: what :mod:`engine.replay.rounding` estimates from."""


@dataclass(frozen=True)
class ReplayCheckpoint:
    """A replay as it was saved, and for which queries."""

    queries: list[int]
    state: ReplayState
    reproduced: bool | None
    """Whether the last step of training was reproduced bit for bit, if that was seen."""


class ReplaySaves:
    """What is saved of an attribution's replay in its folder."""

    def __init__(self, folder: Path, save_seconds: float = SAVE_SECONDS) -> None:
        """Go on in ``folder``; temporary files of a killed writer are removed."""
        remove_unfinished(folder)
        self.folder = folder
        self.damage: str | None = None
        """What is wrong with the journal, if it had to be given up."""
        self._records = self._read()
        self._journal = JournalWriter(folder / JOURNAL)
        self._pace = SavePace(save_seconds)
        self._remove_files(keep=self._latest())

    def __enter__(self) -> "ReplaySaves":
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def written(self) -> set[int]:
        """The queries whose scores are complete."""
        done = [r["queries"] for r in self._records if r["event"] == "written"]
        return {query for queries in done for query in queries}

    def passes(self) -> int:
        """How many passes are complete."""
        return sum(record["event"] == "written" for record in self._records)

    def latest(self, device: torch.device) -> ReplayCheckpoint | None:
        """The replay that was under way, or None if there is none.

        Raises:
            DamagedFileError: if it cannot be read; it is then forgotten.
        """
        record = self._latest()
        if record is None:
            return None
        try:
            *cotangents, rest = (read_tensors(self.folder, f) for f in record["files"])
            if set(_REST) - set(rest):
                raise DamagedFileError(f"{self.folder} holds a replay of another version")
        except DamagedFileError:
            self._append("forgotten")
            raise
        state = ReplayState(
            record["step"],
            [_cotangent(tensors, record["groups"], device) for tensors in cotangents],
            *(rest[name] for name in _REST),
        )
        return ReplayCheckpoint(record["queries"], state, record["reproduced"])

    def is_due(self) -> bool:
        """Whether the last save is old enough for the next, given how long one takes."""
        return self._pace.is_due()

    def save(self, saved: ReplayCheckpoint) -> int:
        """Save a replay durably in place of the one before; returns its bytes."""
        began, state = time.monotonic(), saved.state
        name = f"step-{state.step:08d}.safetensors"
        files = [
            write_tensors(self.folder / f"cotangent-{query}-{name}", _tensors(cotangent))
            for query, cotangent in zip(saved.queries, state.cotangents, strict=True)
        ]
        rest = {name: getattr(state, name) for name in _REST}
        files.append(write_tensors(self.folder / f"scores-{name}", rest))
        self._append(
            "saved",
            queries=saved.queries,
            step=state.step,
            files=files,
            groups=[len(group) for c in state.cotangents[:1] for group in c.optimizer],
            reproduced=saved.reproduced,
        )
        self._remove_files(keep=self._records[-1])
        self._pace.took(time.monotonic() - began)
        self._pace.saved()
        return sum(int(file["bytes"]) for file in files)

    def reproduced(self) -> bool | None:
        """Whether training was reproduced bit for bit, as the passes so far saw it."""
        seen = [r["reproduced"] for r in self._records if r["event"] == "written"]
        return seen[-1] if seen else None

    def signals(self) -> dict[int, tuple[Tensor, Tensor]]:
        """By query whose scores are complete, its signals (step, signal) and its φ.

        Raises:
            DamagedFileError: if they cannot be read.
        """
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for record in self._records:
            if record["event"] == "written" and "signals" in record:
                kept = read_tensors(self.folder, record["signals"])
                of_query = zip(kept["signals"], kept["measurements"], strict=True)
                found |= dict(zip(record["queries"], of_query, strict=True))
        return found

    def mark_written(
        self, queries: Sequence[int], reproduced: bool | None, signals: Tensor, phi: Tensor
    ) -> None:
        """Say that the scores of these queries are complete and durable.

        Args:
            queries: which.
            reproduced: whether the last step of training came out the same, if that was seen.
            signals: (query, step, signal) theirs.
            phi: (query,) their φ.
        """
        kept = {"signals": signals, "measurements": phi}
        file = write_tensors(self.folder / f"signals-{self.passes()}.safetensors", kept)
        self._append("written", queries=list(queries), reproduced=reproduced, signals=file)
        self._remove_files(keep=None)

    def _read(self) -> list[dict[str, Any]]:
        """The records; none, for the replay to begin again, if they are damaged."""
        try:
            return read_journal(self.folder / JOURNAL)
        except RunError as error:
            self.damage = f"{str(error).split(';')[0]}; this replay begins again"
            (self.folder / JOURNAL).unlink()
            return []

    def _latest(self) -> dict[str, Any] | None:
        last = self._records[-1] if self._records else None
        return last if last is not None and last["event"] == "saved" else None

    def _append(self, event: str, **facts: Any) -> None:
        self._journal.append(event, **facts)
        self._journal.sync()
        self._records.append({"event": event, **facts})

    def _remove_files(self, keep: dict[str, Any] | None) -> None:
        named = {file["file"] for file in keep["files"]} if keep is not None else set()
        _remove_saved(self.folder, named)


def remove_saves(folder: Path) -> None:
    """Remove everything that was saved of an attribution that is complete."""
    for part in folder.glob("rank-*-of-*"):
        shutil.rmtree(part)
    _remove_saved(folder, set())
    for file in folder.glob("signals-*.safetensors"):
        file.unlink()
    (folder / JOURNAL).unlink(missing_ok=True)


def _remove_saved(folder: Path, named: set[str]) -> None:
    for file in folder.glob("*-step-*.safetensors"):
        if file.name not in named:
            file.unlink(missing_ok=True)


def _tensors(cotangent: Cotangent) -> dict[str, Tensor]:
    tensors = {f"params/{name}": tensor for name, tensor in cotangent.params.items()}
    for index, group in enumerate(cotangent.optimizer):
        tensors |= {f"optimizer/{index}/{place}": leaf for place, leaf in enumerate(group)}
    return tensors | {f"buffers/{name}": tensor for name, tensor in cotangent.buffers.items()}


def _cotangent(tensors: dict[str, Tensor], groups: list[int], device: torch.device) -> Cotangent:
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    optimizer = [
        [moved.pop(f"optimizer/{index}/{place}") for place in range(size)]
        for index, size in enumerate(groups)
    ]
    params, buffers = (
        {n.removeprefix(kind): t for n, t in moved.items() if n.startswith(kind)}
        for kind in ("params/", "buffers/")
    )
    return Cotangent(params, optimizer, buffers)

"""Checkpoints of a replay between two of its steps, from which an interrupted replay resumes.

A journal beside the scores lists them: a ``saved`` record names the files of one pass of queries at
one step, a ``written`` record the queries whose scores are complete in the score store. Only the
latest checkpoint is kept.
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
from engine.trajectory.recovery import SAVE_SECONDS, SaveTimer
from engine.trajectory.tensor_files import (
    DamagedFileError,
    read_tensors,
    remove_unfinished,
    write_tensors,
)

JOURNAL = "replay.jsonl"
_TENSORS = ("scores", "steps", "query_losses", "signals")
"""Fields of a :class:`ReplayState` that are saved beside its cotangents, in its order."""


@dataclass
class ReplayState:
    """The state of one pass of queries during replay."""

    step: int
    """The cotangents are those at s_step; the steps below it are still to be replayed."""
    cotangents: list[Cotangent]
    """One per query."""
    scores: Tensor
    """(query, *shape of the stream's weights): ∂φ/∂w of the steps replayed so far."""
    steps: Tensor
    """(query, step): the sum of each step's scores."""
    query_losses: Tensor
    """(query,): φ at the end of training."""
    signals: Tensor
    """(query, step, signal): the input of the rounding estimate (:mod:`engine.replay.rounding`)."""


@dataclass(frozen=True)
class ReplayCheckpoint:
    """A saved replay and its queries."""

    queries: list[int]
    state: ReplayState
    reproduced: bool | None
    """Whether the last training step was reproduced bit for bit; None if not compared yet."""


class ReplayCheckpoints:
    """The checkpoints of one attribution's replay."""

    def __init__(self, folder: Path, save_seconds: float = SAVE_SECONDS) -> None:
        """Open the checkpoints in ``folder``; temporary files of a killed writer are removed."""
        remove_unfinished(folder)
        self.folder = folder
        self.damage: str | None = None
        """What is wrong with the journal, if it was damaged and discarded."""
        self._records = self._read()
        self._journal = JournalWriter(folder / JOURNAL)
        self._timer = SaveTimer(save_seconds)
        self._remove_files(keep=self._latest())

    def __enter__(self) -> "ReplayCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()

    def written(self) -> set[int]:
        """The queries whose scores are complete."""
        done = [r["queries"] for r in self._records if r["event"] == "written"]
        return {query for queries in done for query in queries}

    def passes(self) -> int:
        """The number of complete passes."""
        return sum(record["event"] == "written" for record in self._records)

    def latest(self, device: torch.device) -> ReplayCheckpoint | None:
        """The checkpoint of the interrupted pass, or None if there is none.

        Raises:
            DamagedFileError: if it cannot be read; it is then discarded.
        """
        record = self._latest()
        if record is None:
            return None
        try:
            *cotangents, rest = (read_tensors(self.folder, f) for f in record["files"])
            if set(_TENSORS) - set(rest):
                raise DamagedFileError(
                    f"{self.folder} holds a replay checkpoint of another version of magic"
                )
        except DamagedFileError:
            self._append("discarded")
            raise
        state = ReplayState(
            record["step"],
            [_cotangent(tensors, record["groups"], device) for tensors in cotangents],
            *(rest[name] for name in _TENSORS),
        )
        return ReplayCheckpoint(record["queries"], state, record["reproduced"])

    def is_due(self) -> bool:
        """Whether the next save is due."""
        return self._timer.is_due()

    def save(self, saved: ReplayCheckpoint) -> int:
        """Save a replay durably in place of the previous checkpoint; returns its size in bytes."""
        began, state = time.monotonic(), saved.state
        name = f"step-{state.step:08d}.safetensors"
        files = [
            write_tensors(self.folder / f"cotangent-{query}-{name}", _cotangent_tensors(cotangent))
            for query, cotangent in zip(saved.queries, state.cotangents, strict=True)
        ]
        rest = {name: getattr(state, name) for name in _TENSORS}
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
        self._timer.record(time.monotonic() - began)
        self._timer.restart()
        return sum(int(file["bytes"]) for file in files)

    def reproduced(self) -> bool | None:
        """Whether the last training step was reproduced bit for bit; None before any pass."""
        compared = [r["reproduced"] for r in self._records if r["event"] == "written"]
        return compared[-1] if compared else None

    def signals(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Signals (step, signal) and φ of every query whose scores are complete.

        Raises:
            DamagedFileError: if they cannot be read.
        """
        signals: dict[int, tuple[Tensor, Tensor]] = {}
        for record in self._records:
            if record["event"] == "written" and "signals" in record:
                tensors = read_tensors(self.folder, record["signals"])
                of_query = zip(tensors["signals"], tensors["query_losses"], strict=True)
                signals |= dict(zip(record["queries"], of_query, strict=True))
        return signals

    def mark_written(
        self, queries: Sequence[int], reproduced: bool | None, signals: Tensor, phi: Tensor
    ) -> None:
        """Record that the scores of these queries are complete and durable.

        Args:
            queries: indices of the queries.
            reproduced: whether the last training step was reproduced bit for bit.
            signals: (query, step, signal).
            phi: (query,) their losses φ.
        """
        tensors = {"signals": signals, "query_losses": phi}
        file = write_tensors(self.folder / f"signals-{self.passes()}.safetensors", tensors)
        self._append("written", queries=list(queries), reproduced=reproduced, signals=file)
        self._remove_files(keep=None)

    def _read(self) -> list[dict[str, Any]]:
        """The records; none if they are damaged, so that the replay restarts."""
        try:
            return read_journal(self.folder / JOURNAL)
        except RunError as error:
            self.damage = f"{str(error).split(';')[0]}; the replay restarts"
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
        _remove_files_except(self.folder, named)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a complete attribution."""
    for part in folder.glob("rank-*-of-*"):
        shutil.rmtree(part)
    _remove_files_except(folder, set())
    for file in folder.glob("signals-*.safetensors"):
        file.unlink()
    (folder / JOURNAL).unlink(missing_ok=True)


def _remove_files_except(folder: Path, named: set[str]) -> None:
    for file in folder.glob("*-step-*.safetensors"):
        if file.name not in named:
            file.unlink(missing_ok=True)


def _cotangent_tensors(cotangent: Cotangent) -> dict[str, Tensor]:
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

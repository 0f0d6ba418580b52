"""The files of a trajectory: one rank's part of each, verified against the manifests.

A single rank writes whole tensors; several ranks write one part each, in a folder of their own. A
reader assembles its own part from all folders, whatever the number of ranks that wrote them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.replay.ranks import Shard
from engine.replay.state import Params
from engine.runs.errors import RunError
from engine.runs.manifest import Key, Manifest, parts_of, read_manifest, read_part
from engine.trajectory.tensor_files import DamagedFileError, read_tensors

Stamp = tuple[tuple[str, str], ...]
"""Identifies the bits behind a key: path and crc32c of every file that its tensors come from."""


class TrajectoryFiles:
    """Reads a trajectory's files into host memory. Stateless, so any thread may use it."""

    def __init__(
        self, folder: Path, shards: Mapping[str, Shard], manifest: Manifest | None = None
    ) -> None:
        """Open the trajectory in ``folder``.

        Args:
            folder: the trajectory's folder.
            shards: the part of every parameter to read, by parameter name.
            manifest: this rank's manifest of an unfinished trajectory. By default the manifests
                are read from ``folder`` and must be complete.

        Raises:
            RunError: if the trajectory is missing, incomplete or damaged.
        """
        self.folder = folder
        self.shards = shards
        first = next(iter(shards.values()))
        self._index, self._count = first.index, first.count
        whole = manifest or read_manifest(folder)
        if whole is None or (manifest is None and not whole.complete):
            raise RunError(
                f"{folder} holds no complete trajectory (it was removed, or training did not "
                "finish); run the config again"
            )
        self.manifest = whole
        self._parts = parts_of(folder)
        # While training writes, only this rank's own manifest is up to date.
        self._manifests = (
            {part: read_part(path) for part, path in enumerate(self._parts)}
            if manifest is None
            else {self._index: manifest}
        )

    def stamp(self, key: Key) -> Stamp:
        """Identifies the bits that :meth:`read` returns, according to the manifests."""
        records = [(self._parts[part], self._record(part, key)) for part in self._sources()]
        return tuple(stamp_of(folder, known) for folder, known in records if known is not None)

    def size(self, key: Key) -> int:
        """Approximate bytes of the tensors of a key."""
        records = [self._record(part, key) for part in self._sources()]
        read = sum(int(known["bytes"]) for known in records if known is not None)
        return read if self._has_same_parts() else read // self._count

    def read(self, key: Key) -> Params:
        """This rank's part of the tensors of a key.

        Raises:
            DamagedFileError: if one of its files is missing or damaged.
            RunError: if it belongs to another model.
        """
        if self._has_same_parts():
            return self._read_part(self._index, key)
        tensors: Params = {}
        for part in self._sources():
            for name, tensor in self._read_part(part, key).items():
                shard = self.shards.get(name.rsplit("/", 1)[-1])
                if shard is None or (tensor.ndim == 0 and name.startswith("optimizer/")):
                    tensors[name] = tensor
                    continue
                own = tensors.setdefault(name, tensor.new_empty(shard.stop - shard.start))
                self._copy_overlap(tensor, part, own, shard)
        return tensors

    def _has_same_parts(self) -> bool:
        """Whether the trajectory was written by as many ranks as now read it."""
        return len(self._parts) == self._count

    def _sources(self) -> list[int]:
        return [self._index] if self._has_same_parts() else list(range(len(self._parts)))

    def _record(self, part: int, key: Key) -> dict[str, Any] | None:
        manifest = self._manifests[part]
        return None if manifest is None else manifest.files.get(key)

    def _copy_overlap(self, theirs: Tensor, part: int, own: Tensor, shard: Shard) -> None:
        """Copy the elements that a writing rank's part and this rank's part have in common."""
        held = Shard(shard.shape, part, len(self._parts))
        flat = torch.Size([held.stop - held.start])
        if theirs.shape not in (shard.shape if held.count == 1 else flat, flat):
            raise RunError(f"{self.folder} belongs to another model: its parameters differ")
        start, stop = max(held.start, shard.start), min(held.stop, shard.stop)
        if start < stop:
            common = theirs.reshape(-1)[start - held.start : stop - held.start]
            own[start - shard.start : stop - shard.start] = common

    def _read_part(self, part: int, key: Key) -> Params:
        folder, record = self._parts[part], self._record(part, key)
        if record is None:
            raise DamagedFileError(f"{folder} has no {key[0]} of step {key[1]}")
        return read_tensors(folder, record)


def stamp_of(folder: Path, record: dict[str, Any]) -> tuple[str, str]:
    """One file's entry in a stamp."""
    return str(folder / record["file"]), str(record["crc32c"])

"""The files of a trajectory: this rank's part of each, checked against the manifests.

One rank keeps whole tensors, several keep a part each, in a folder of its own. Whoever reads
takes its own part from all of theirs, however many they were.
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
"""Which bits a key stands for: path and crc32c of every file that its tensors come from."""


class TrajectoryFiles:
    """Reads files of a trajectory into host memory; has no state, so any thread may."""

    def __init__(
        self, folder: Path, shards: Mapping[str, Shard], manifest: Manifest | None = None
    ) -> None:
        """Open the trajectory in ``folder``.

        Args:
            folder: where it lies.
            shards: which part of every parameter to read.
            manifest: what this rank has kept of an unfinished trajectory; read, and required to
                be complete, if left out.

        Raises:
            RunError: if it is missing, incomplete or damaged.
        """
        self.folder = folder
        self.shards = shards
        first = next(iter(shards.values()))
        self._index, self._count = first.index, first.count
        found = manifest or read_manifest(folder)
        if found is None or (manifest is None and not found.complete):
            raise RunError(
                f"{folder} holds no complete trajectory (it was removed, or training did not "
                "finish); run the config again"
            )
        self.manifest = found
        self._parts = parts_of(folder)
        # A training that goes on keeps only its own part up to date.
        self._manifests = (
            {part: read_part(path) for part, path in enumerate(self._parts)}
            if manifest is None
            else {self._index: manifest}
        )

    def stamp(self, key: Key) -> Stamp:
        """Which bits :meth:`read` gives, as the manifests say."""
        facts = [(self._parts[part], self._facts(part, key)) for part in self._sources()]
        return tuple(stamp_of(folder, known) for folder, known in facts if known is not None)

    def size(self, key: Key) -> int:
        """About how many bytes the tensors of a key take."""
        found = [self._facts(part, key) for part in self._sources()]
        read = sum(int(known["bytes"]) for known in found if known is not None)
        return read if self._is_own() else read // self._count

    def read(self, key: Key) -> Params:
        """This rank's part of the tensors of a key.

        Raises:
            DamagedFileError: if a file of it is missing or damaged.
            RunError: if it belongs to another model.
        """
        if self._is_own():
            return self._read_part(self._index, key)
        found: Params = {}
        for part in self._sources():
            for name, tensor in self._read_part(part, key).items():
                shard = self.shards.get(name.rsplit("/", 1)[-1])
                if shard is None or (tensor.ndim == 0 and name.startswith("optimizer/")):
                    found[name] = tensor
                    continue
                own = found.setdefault(name, tensor.new_empty(shard.stop - shard.start))
                self._take_over(tensor, part, own, shard)
        return found

    def _is_own(self) -> bool:
        """Whether the trajectory is divided as this rank wants it."""
        return len(self._parts) == self._count

    def _sources(self) -> list[int]:
        return [self._index] if self._is_own() else list(range(len(self._parts)))

    def _facts(self, part: int, key: Key) -> dict[str, Any] | None:
        manifest = self._manifests[part]
        return None if manifest is None else manifest.files.get(key)

    def _take_over(self, theirs: Tensor, part: int, own: Tensor, shard: Shard) -> None:
        """Copy what a rank of the training and this one have in common."""
        held = Shard(shard.shape, part, len(self._parts))
        flat = torch.Size([held.stop - held.start])
        if theirs.shape not in (shard.shape if held.count == 1 else flat, flat):
            raise RunError(f"{self.folder} belongs to another model: its parameters differ")
        start, stop = max(held.start, shard.start), min(held.stop, shard.stop)
        if start < stop:
            common = theirs.reshape(-1)[start - held.start : stop - held.start]
            own[start - shard.start : stop - shard.start] = common

    def _read_part(self, part: int, key: Key) -> Params:
        folder, facts = self._parts[part], self._facts(part, key)
        if facts is None:
            raise DamagedFileError(f"{folder} does not keep the {key[0]} of step {key[1]}")
        return read_tensors(folder, facts)


def stamp_of(folder: Path, facts: dict[str, Any]) -> tuple[str, str]:
    """The part of a stamp that one file makes."""
    return str(folder / facts["file"]), str(facts["crc32c"])

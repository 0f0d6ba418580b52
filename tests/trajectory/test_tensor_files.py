"""Tensor files are read as they were written, and any damage is detected."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from engine.trajectory import tensor_files
from engine.trajectory.tensor_files import (
    DamagedFileError,
    copy_dense,
    read_tensors,
    write_tensors,
)


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    every = {f"params/{kind}": torch.randn(3, 5).to(kind) for kind in kinds}
    every |= {f"count/{k}": torch.tensor(7, dtype=k) for k in (torch.int64, torch.int32)}
    every |= {f"small/{k}": torch.arange(3, dtype=k) for k in (torch.int16, torch.int8)}
    every |= {"bytes": torch.arange(5, dtype=torch.uint8), "flags": torch.tensor([True, False])}
    return every | {"none": torch.zeros(0, 4), "ünicode": torch.ones(1), "turned": torch.eye(3).t()}


@pytest.mark.parametrize("chunk", [1, 7, 2**22])
def test_tensors_survive_a_round_trip(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", chunk)
    written = tensors()
    facts = write_tensors(tmp_path / "x.safetensors", written)
    ours, theirs = read_tensors(tmp_path, facts), load((tmp_path / "x.safetensors").read_bytes())
    assert ours.keys() == theirs.keys() == written.keys()
    for name, tensor in ours.items():
        for other in (theirs[name], written[name], copy_dense(tensor)):
            assert tensor.dtype == other.dtype and tensor.shape == other.shape
            assert torch.equal(tensor, other)
        assert tensor.is_contiguous() and tensor.data_ptr() % 64 == 0


def test_every_kind_of_damage_is_detected(tmp_path: Path) -> None:
    path, draw = tmp_path / "x.safetensors", random.Random(0)
    facts = write_tensors(path, tensors())
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def changed(name: str, **said: object) -> bytes:
        text = json.dumps({**header, name: {**header[name], **said}}, separators=(",", ":"))
        return whole[:8] + text.encode().ljust(length)[:length] + whole[8 + length :]

    damaged = [whole[:cut] for cut in range(0, len(whole), 7)]
    damaged += [whole + b"\0", b"\xff" * len(whole), b"\xff" * 8 + whole[8:], b"\0" * 8 + whole[8:]]
    damaged += [whole[:8] + b"[" * length + whole[8 + length :]]
    damaged += [changed("none", shape=s) for s in ([-1, 0], [2**62, 0], "x", [0.0], [0, 5], None)]
    damaged += [changed("bytes", data_offsets=o) for o in ([0], [5, 0], [-5, 0], [0, 2**62])]
    damaged += [changed("bytes", dtype=d) for d in ("I8", "F999", None, [])]
    for _ in range(300):
        place, flipped = draw.randrange(len(whole)), bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(DamagedFileError):
            read_tensors(tmp_path, facts)
    path.write_bytes(whole)
    assert read_tensors(tmp_path, facts)

import json
from pathlib import Path

import pytest

from magic_tui.cli import machine
from tests.cli.conftest import Magic

TORCH = {"version": "2.13.0", "cuda": None, "hip": None, "devices": []}


@pytest.fixture
def quick_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"print('noise'); print({json.dumps(json.dumps(TORCH))})"
    monkeypatch.setattr(machine, "_ASK_TORCH", script)


@pytest.mark.usefixtures("quick_torch")
def test_facts(runs: Path, magic: Magic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache" / "hub").mkdir(parents=True)
    (tmp_path / "cache" / "hub" / "blob").write_bytes(b"x" * 1234)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    facts = json.loads(magic("doctor", "--json").stdout)
    assert facts["torch"] == TORCH
    assert facts["hub_cache_bytes"] == 1234
    assert facts["runs_dir"] == str(runs)
    assert set(facts["libraries"]) == {"transformers", "datasets", "torchopt", "zarr"}
    assert facts["free_disk"] > 0 and facts["memory"] >= facts["free_memory"] > 0
    assert "GPU           none that torch can use" in magic("doctor").stdout


@pytest.mark.usefixtures("quick_torch")
def test_problems_in_plain_words(magic: Magic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LIBRARIES", ("zarr", "no-such-library"))
    monkeypatch.setitem(TORCH, "version", "2.1.0+cpu")
    monkeypatch.setattr(machine, "_ASK_TORCH", f"print({json.dumps(json.dumps(TORCH))})")
    output = magic("doctor").stdout
    assert "! no-such-library is not installed: install it with pip" in output
    assert "! torch 2.1.0+cpu is too old: 2.11 or newer is needed" in output
    assert "nothing is missing" not in output


def test_a_torch_that_does_not_load(magic: Magic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ASK_TORCH", "raise ImportError('libcudart is missing')")
    facts = json.loads(magic("doctor", "--json").stdout)
    assert facts["torch"] is None
    assert facts["problems"][0].endswith("does not load: ImportError: libcudart is missing")

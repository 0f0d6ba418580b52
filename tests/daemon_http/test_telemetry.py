"""The machine's figures."""

import shutil
import threading
import time
from pathlib import Path

import psutil
import pytest

from engine.daemon.overview import disk_free, host_memory, telemetry
from engine.daemon.serving import CachedView
from engine.runs.api_schema import API_VERSION, DeviceView, EngineView


def a_view(pid: int = 1) -> EngineView:
    gpu = DeviceView(id="GPU-1", name="a", memory_used=None, memory_total=None, run=None)
    return EngineView(
        api_version=API_VERSION, version="0", pid=pid, started=0.0, socket="/s", devices=[gpu],
        memory_used=5, memory_total=7, disk_free=1, disk_floor=2, queued=0, running=0,
    )  # fmt: skip


def test_memory_is_that_of_the_machine() -> None:
    used, total = host_memory()
    assert 0 < used < total == psutil.virtual_memory().total


def test_disk_is_that_of_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path).free
    for folder in (tmp_path, tmp_path / "not/there/yet"):
        assert disk_free(folder) == pytest.approx(free, abs=1e9)

    def fail(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(shutil, "disk_usage", fail)
    assert disk_free(tmp_path) is None
    figures = telemetry(a_view(), tmp_path)
    assert (figures.memory_used, figures.memory_total, figures.disk_free) == (5, 7, None)
    assert figures.devices == a_view().devices


def test_a_shared_view_is_cached() -> None:
    calls: list[int] = []

    def make() -> EngineView:
        time.sleep(0.05)
        calls.append(1)
        return a_view(len(calls))

    shared = CachedView(make, seconds=0.3)
    threads = [threading.Thread(target=shared) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    time.sleep(0.35)
    assert shared().pid == 2

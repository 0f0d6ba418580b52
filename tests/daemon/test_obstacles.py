"""Reasons why a job does not start: too little disk space, or no free device."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from engine.daemon import admission, scheduler
from engine.daemon.devices import Device, Devices, visible_devices
from engine.daemon.leases import Allocation, Denied, Leases
from engine.daemon.settings import Settings
from engine.runs.errors import UsageError
from engine.runs.states import Ending
from tests.daemon.conftest import Bench

GIB = 1 << 30


class Disk:
    """Free disk space, set by a test."""

    free = 100 * GIB


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(admission, "free_bytes", lambda path: disk.free)
    return disk


class FakeNvml(ModuleType):
    """NVML of a machine with some GPUs: (memory used, memory in all), None where unknown."""

    def __init__(self, *gpus: tuple[int, int] | None) -> None:
        super().__init__("pynvml")
        self.gpus = list(gpus)
        self.broken = False

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            raise RuntimeError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if self.broken:
            raise RuntimeError("driver gone")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}{handle}"

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"Fake 3000"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        memory = self.gpus[handle]
        if memory is None:
            raise RuntimeError("not supported")
        return SimpleNamespace(used=memory[0], total=memory[1])


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml((0, 80 * GIB), (0, 80 * GIB))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_little_disk_blocks_and_room_releases(bench: Bench, disk: Disk) -> None:
    disk.free = GIB // 2
    engine = bench.start(Settings(disk_floor=GIB))
    run = bench.submit(engine)
    view = bench.until(engine, run, "blocked")
    assert view.reason is not None and "MAGIC_DISK_FLOOR_GB" in view.reason
    assert "537 MB are free" in view.reason and str(bench.runs / run) in view.reason
    assert not bench.attempts(run)
    disk.free = 2 * GIB
    bench.until(engine, run, "succeeded")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (12_300, "12.3 kB"),
        (999_600, "1 MB"),
        (5 * 10**8, "500 MB"),
        (10**15, "1e+03 TB"),
    ],
)
def test_bytes_are_printed_in_a_fitting_unit(count: int, text: str) -> None:
    assert admission._size(count) == text


def test_a_full_disk_is_tried_again_when_more_is_free(bench: Bench, disk: Disk) -> None:
    disk.free = 5 * GIB
    engine = bench.start(Settings(disk_floor=GIB))
    run = bench.submit(engine, {"end": "full"}, {})
    view = bench.until(engine, run, lambda view: "no more is free now" in (view.reason or ""))
    assert view.state == "blocked"
    assert bench.exit(run)["ending"] == Ending.FULL and len(bench.attempts(run)) == 1
    disk.free = 6 * GIB
    bench.until(engine, run, "succeeded")


def test_a_disk_that_stays_full_is_no_failure(bench: Bench, disk: Disk) -> None:
    engine = bench.start()
    run = bench.submit(engine, *[{"end": "full"}] * 4, {})
    for attempt in range(1, 5):
        bench.until(
            engine,
            run,
            lambda view, attempts=attempt: (  # type: ignore[misc]
                view.jobs[0].attempts == attempts and "no more is free now" in (view.reason or "")
            ),
        )
        disk.free += 10 * GIB
    bench.until(engine, run, "succeeded")


def test_a_new_engine_goes_by_the_floor_alone(bench: Bench, disk: Disk) -> None:
    disk.free = 5 * GIB
    engine = bench.start(Settings(disk_floor=GIB))
    run = bench.submit(engine, {"end": "full"}, {})
    bench.until(engine, run, lambda view: "no more is free now" in (view.reason or ""))
    bench.stop(engine)
    bench.until(bench.start(Settings(disk_floor=GIB)), run, "succeeded")


def test_resume_after_a_full_disk_starts_the_job(bench: Bench, disk: Disk) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"end": "full"}, {})
    bench.until(engine, run, lambda view: "no more is free now" in (view.reason or ""))
    bench.act(engine, run, "resume")
    bench.until(engine, run, "succeeded")


def test_a_process_that_cannot_be_started_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scheduler.SUPERVISOR_COMMAND
    monkeypatch.setattr(scheduler, "SUPERVISOR_COMMAND", ["/nowhere/python"])
    monkeypatch.setattr(scheduler, "RETRY_SECONDS", 0.1)
    engine = bench.start()
    run = bench.submit(engine)
    view = bench.until(engine, run, "blocked")
    assert view.reason is not None and view.reason.startswith("could not be started: ")
    assert not bench.attempts(run)
    monkeypatch.setattr(scheduler, "SUPERVISOR_COMMAND", real)
    bench.until(engine, run, "succeeded")


def test_a_failing_supervisor_is_reported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [sys.executable, "-S", "-c", "raise SystemExit('no such library')"]
    monkeypatch.setattr(scheduler, "SUPERVISOR_COMMAND", broken)
    engine = bench.start()
    run = bench.submit(engine)
    view = bench.until(engine, run, "failed")
    log = bench.attempts(run)[2].supervisor_log
    assert view.reason is not None and view.reason.endswith(f"its supervisor failed; see {log}")
    assert log.read_text() == "no such library\n"


def test_every_run_gets_a_gpu_of_its_own(bench: Bench, nvml: FakeNvml) -> None:
    engine = bench.start()
    runs = [bench.submit(engine, {"wait_for": "go"}) for _ in range(3)]
    for number, run in enumerate(runs[:2]):
        view = bench.until(engine, run, "running")
        assert view.job is not None and view.job.devices == [f"GPU-{number}{number}"]
        bench.rank(run)
        log = bench.attempts(run)[0].log_file.read_text()
        assert log.split()[-1] == f"GPU-{number}{number}"
    third = bench.until(engine, runs[2], lambda view: bool(view.reason))
    assert third.state == "queued"
    assert third.reason == f"waits for a GPU: run {runs[0]} is using it"
    assert [device.run for device in engine.view("").devices] == runs[:2]
    bench.allow(runs[1])
    view = bench.until(engine, runs[2], "running")
    assert view.job is not None and view.job.devices == ["GPU-11"]


def test_leases_outlive_the_engine(bench: Bench, nvml: FakeNvml) -> None:
    first = bench.start()
    run = bench.submit(first, {"wait_for": "go"})
    bench.until(first, run, "running")
    bench.stop(first)
    second = bench.start()
    assert [device.run for device in second.view("").devices] == [run, None]
    other = bench.submit(second, {"wait_for": "go"})
    view = bench.until(second, other, "running")
    assert view.job is not None and view.job.devices == ["GPU-11"]


def test_gpus_that_others_use_are_left_alone(bench: Bench, nvml: FakeNvml) -> None:
    nvml.gpus = [(20 * GIB, 80 * GIB)]
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    view = bench.until(engine, run, "blocked")
    assert view.reason == (
        "waits for a GPU: other programs use 21.5 GB of Fake 3000 (GPU-00); it starts when they end"
    )
    nvml.gpus = [(3 * GIB, 80 * GIB)]
    bench.until(engine, run, "running")
    nvml.gpus = [(60 * GIB, 80 * GIB)]
    device = engine.view("").devices[0]
    assert (device.run, device.memory_used) == (run, 60 * GIB)
    other = bench.submit(engine)
    assert bench.until(engine, other, lambda view: bool(view.reason)).state == "queued"


def test_the_user_chooses_a_gpu_or_none(bench: Bench, nvml: FakeNvml) -> None:
    engine = bench.start()
    chosen = {"GPU-1": ["GPU-11"], "": []}
    for visible, expected in chosen.items():
        run = bench.submit(engine, {"wait_for": "go"}, CUDA_VISIBLE_DEVICES=visible)
        view = bench.until(engine, run, "running")
        assert view.job is not None and view.job.devices == expected
        bench.rank(run)
        visible_to_rank = bench.attempts(run)[0].log_file.read_text().split(" visible ")[1].strip()
        assert visible_to_rank == (",".join(expected) if expected else visible)
        bench.allow(run)
        bench.until(engine, run, "succeeded")
    run = bench.submit(engine, CUDA_VISIBLE_DEVICES="7")
    reason = bench.until(engine, run, "blocked").reason
    assert reason is not None and "names 7, which is not a GPU of this machine" in reason


def test_unknown_memory_is_none_and_no_obstacle(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.gpus = [None]
    (device,) = Devices().all()
    assert (device.memory_used, device.memory_total, device.name) == (None, None, "Fake 3000")
    assert isinstance(Leases(tmp_path).allocate(tmp_path, [device]), Allocation)


def test_no_driver_no_devices(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.broken = True
    devices = Devices()
    assert devices.all() == []
    nvml.broken = False
    assert devices.all() == [], "asked again too soon"
    monkeypatch.setattr("engine.daemon.devices._RETRY_SECONDS", 0.0)
    devices = Devices()
    assert len(devices.all()) == 2
    nvml.broken = True
    assert devices.all() == []
    nvml.broken = False
    assert len(devices.all()) == 2


def test_no_nvml_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Devices().all() == []


@pytest.mark.parametrize(
    ("used", "total", "crowded"),
    [
        (GIB, 8 * GIB, False),
        (GIB + 1, 8 * GIB, True),
        (4 * GIB, 80 * GIB, False),
        (4 * GIB + 1, 80 * GIB, True),
        (None, 80 * GIB, False),
        (2 * GIB, None, True),
    ],
)
def test_when_a_gpu_counts_as_used(used: int | None, total: int | None, crowded: bool) -> None:
    assert Device("GPU-0", "x", used, total).crowded == crowded


def test_what_visible_devices_means() -> None:
    gpus = [Device(f"GPU-{letter}", "x") for letter in "abc"]
    ask = "CUDA_VISIBLE_DEVICES"
    assert visible_devices(gpus, {}, {}) == gpus
    assert visible_devices(gpus, {}, {ask: "2,0"}) == [gpus[2], gpus[0]]
    assert visible_devices(gpus, {ask: "GPU-b"}, {ask: "2"}) == [gpus[1]]
    assert visible_devices(gpus, {ask: " 1 , -1, 2"}, {}) == [gpus[1]]
    assert [d.id for d in visible_devices(gpus, {ask: "MIG-x"}, {})] == ["MIG-x"]
    for wrong in ("3", "GPU-", "b", "GPU-z", "\u0661"):
        with pytest.raises(UsageError, match="not a GPU of this machine"):
            visible_devices(gpus, {ask: wrong}, {})


def test_several_leases_are_taken_all_or_none(tmp_path: Path) -> None:
    leases, gpus = Leases(tmp_path), [Device(f"GPU-{n}", "x") for n in range(3)]
    one = leases.allocate(Path("/runs/a"), gpus, 1)
    assert isinstance(one, Allocation) and one.devices == ["GPU-0"]
    assert isinstance(leases.allocate(Path("/runs/b"), gpus), Denied)
    two = leases.allocate(Path("/runs/b"), gpus, 2)
    assert isinstance(two, Allocation) and two.devices == ["GPU-1", "GPU-2"]
    assert isinstance(leases.allocate(Path("/runs/c"), gpus, 1), Denied)
    many = leases.allocate(Path("/runs/c"), gpus, 4)
    assert isinstance(many, Denied) and "asks for 4 GPUs and there are 3" in many.reason


def test_a_lease_has_one_holder_at_a_time(tmp_path: Path) -> None:
    leases, gpu = Leases(tmp_path), [Device("GPU/../x", "odd")]
    first = leases.allocate(Path("/runs/a"), gpu)
    assert isinstance(first, Allocation)
    assert leases.holder("GPU/../x") == Path("/runs/a") and leases.holders() == [Path("/runs/a")]
    assert isinstance(leases.allocate(Path("/runs/b"), gpu), Denied)
    assert [p.parent for p in tmp_path.glob("**/*.lease")] == [tmp_path]
    os.close(first.descriptors[0])
    assert leases.holder("GPU/../x") is None
    assert isinstance(leases.allocate(Path("/runs/b"), gpu), Allocation)

"""What ``resume`` continues, and that a copy of a run computes nothing without it."""

import shutil
from pathlib import Path

import pytest

from engine.daemon.admission import Admission
from engine.daemon.devices import Devices
from engine.daemon.job_monitor import JobMonitor
from engine.daemon.leases import Allocation, Denied, Leases
from engine.daemon.settings import Settings
from engine.runs.jobs import JobFolder
from engine.runs.request import ValidationRequest
from engine.runs.states import DesiredState
from tests.daemon.conftest import NO_FLOOR, Bench
from tests.daemon.test_obstacles import FakeNvml, nvml

__all__ = ["nvml"]


def states(bench: Bench, engine: object, run: str) -> list[str]:
    return [str(job.state) for job in engine.run(bench.runs, run).jobs]  # type: ignore[attr-defined]


def test_interrupted_jobs_resume_and_old_failures_do_not(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine)
    bench.until(engine, run, "succeeded")
    for _ in range(2):
        bench.ask(engine, run, {"end": "fail"})
        bench.until(engine, run, lambda view: view.jobs[-1].state == "failed")
    bench.ask(engine, run, {"wait_for": "go"})
    bench.until(engine, run, "running")
    bench.act(engine, run, "pause")
    bench.until(engine, run, "paused")
    bench.act(engine, run, "resume")
    bench.until(engine, run, "running")
    assert states(bench, engine, run) == ["succeeded", "failed", "failed", "running"]
    bench.allow(run)
    bench.until(engine, run, "succeeded")
    bench.act(engine, run, "resume")
    bench.until(engine, run, lambda view: view.jobs[2].attempts == 2)
    assert [len(bench.attempts(run, job)) for job in (2, 3)] == [1, 2]


def test_cancelled_queries_resume_with_the_training_they_need(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    bench.ask(engine, run)
    bench.act(engine, run, "cancel")
    bench.until(engine, run, lambda view: all(job.state == "cancelled" for job in view.jobs))
    bench.act(engine, run, "resume")
    bench.allow(run)
    bench.until(engine, run, lambda view: all(job.state == "succeeded" for job in view.jobs))


def test_a_copy_computes_only_on_request(bench: Bench, tmp_path: Path) -> None:
    engine = bench.start(Settings(disk_floor=10**18))
    run = bench.submit(engine)
    bench.until(engine, run, "blocked")
    bench.stop(engine)
    copies = tmp_path / "copies"
    shutil.copytree(bench.runs, copies)
    engine, original = bench.start(), bench.runs
    bench.runs = copies
    view = bench.until(engine, run, "blocked")
    assert view.reason == (
        f"was copied or moved here from {original / run}; resume it here with: magic resume {run}"
    )
    assert not bench.attempts(run)
    bench.act(engine, run, "resume")
    bench.until(engine, run, "succeeded")


@pytest.fixture
def waiting(bench: Bench) -> JobFolder:
    """A queued job without an engine."""
    engine = bench.start(Settings(disk_floor=10**18))
    run = bench.submit(engine)
    bench.until(engine, run, "blocked")
    bench.stop(engine)
    return JobFolder(bench.runs / run / "jobs/0001")


def admitted(
    folder: JobFolder, devices: Devices, leases: Leases, device: str | None, **environment: str
) -> Allocation | Denied:
    """The admission of a job whose run was prepared on ``device``."""
    facts = {"checkpointing": "x", "threads": 1} | ({"device": device} if device else {})
    folder.run.write_prepared(facts)
    job = JobMonitor(folder)
    job.request.environment.clear()
    job.request.environment.update(environment)
    return Admission(leases, devices, NO_FLOOR).admit(job)


def test_a_job_started_on_a_gpu_waits_for_a_gpu(
    waiting: JobFolder, nvml: FakeNvml, tmp_path: Path
) -> None:
    devices, leases = Devices(), Leases(tmp_path / "leases")
    nvml.gpus = []
    refused = admitted(waiting, devices, leases, "cuda")
    assert isinstance(refused, Denied) and refused.external
    assert refused.reason.startswith("waits for a GPU: it began on one")
    nvml.gpus = [(0, 10**9)]
    refused = admitted(waiting, devices, leases, "cuda", CUDA_VISIBLE_DEVICES="")
    assert isinstance(refused, Denied) and "CUDA_VISIBLE_DEVICES leaves it none" in refused.reason
    allocation = admitted(waiting, devices, leases, "cuda")
    assert isinstance(allocation, Allocation) and (allocation.devices, allocation.gpu) == (
        ["GPU-00"],
        True,
    )


def test_jobs_wait_for_missing_gpus(
    waiting: JobFolder, nvml: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.daemon.devices._RETRY_SECONDS", 0.0)
    devices, leases = Devices(), Leases(tmp_path / "leases")
    assert devices.all()
    nvml.broken = True
    refused = admitted(waiting, devices, leases, None)
    assert isinstance(refused, Denied) and refused.external
    assert "lists none now" in refused.reason
    assert isinstance(
        admitted(waiting, devices, leases, None, CUDA_VISIBLE_DEVICES="-1"), Allocation
    )


def test_what_began_without_a_gpu_gets_none(bench: Bench, nvml: FakeNvml) -> None:
    nvml.gpus = []
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    bench.until(engine, run, "running")
    assert bench.attempts(run)[0].about()["gpu"] is True
    facts = {"checkpointing": "x", "threads": 1, "device": "cpu"}
    bench.job(run).run.write_prepared(facts)
    bench.act(engine, run, "pause")
    bench.until(engine, run, "paused")
    nvml.gpus = [(0, 10**9)]
    bench.act(engine, run, "resume")
    view = bench.until(engine, run, "running")
    assert view.job is not None and view.job.devices == []
    assert bench.attempts(run)[1].about()["gpu"] is False
    bench.allow(run)
    bench.until(engine, run, "succeeded")


def test_a_desired_state_records_the_folder_as_home(waiting: JobFolder) -> None:
    waiting.set_desired_state(DesiredState.RUNNING)
    assert JobMonitor(waiting).moved_from() is None
    moved = waiting.run.path.with_name("20250102T030405-abc123")
    waiting.run.path.rename(moved)
    assert JobMonitor(JobFolder(moved / "jobs/0001")).moved_from() == str(waiting.run.path)


@pytest.mark.parametrize(("probed", "waits"), [(False, False), (True, True)])
def test_cluster_validations_need_no_gpu(
    waiting: JobFolder, nvml: FakeNvml, tmp_path: Path, probed: bool, waits: bool
) -> None:
    validation = ValidationRequest(cluster="slurm", metasmoothness=probed)
    request = waiting.request().model_copy(update={"work": "validate", "validation": validation})
    (waiting.path / "request.json").write_text(request.model_dump_json())
    nvml.gpus = []
    decision = admitted(waiting, Devices(), Leases(tmp_path / "leases"), "cuda")
    assert isinstance(decision, Denied) == waits
    assert waits or (isinstance(decision, Allocation) and decision.gpu is False)

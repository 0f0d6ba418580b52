"""Retrainings as cluster jobs: submitit's local jobs, and a fake Slurm that accepts jobs only."""

import functools
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.attribution.prepared_run import PreparedRun
from engine.evaluation import cluster
from engine.evaluation.cluster import abandoned_slurm_jobs
from engine.evaluation.retraining import Retrained, Retrainer
from engine.evaluation.subsets import NOTHING
from engine.evaluation.task_pool import TaskPool
from engine.evaluation.validate import Validator
from engine.runs.checksummed import write_record
from engine.runs.errors import RunError, StoppedError, UsageError
from engine.runs.journal import read_journal
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from tests.evaluation.harmed_job import HarmedJob
from tests.evaluation.test_validating import SMALL, Recorder, validate

LOCAL = SMALL.model_copy(update={"cluster": "local"})
SLURM = ValidationRequest(
    drop=(0.3,), count=3, jobs=2, cluster="slurm", cluster_options={"slurm_partition": "long"}
)


def table(run: RunFolder) -> list[str]:
    return sorted((run.attributions / "a0001" / "validation.csv").read_text().splitlines())


@pytest.fixture(scope="module")
def whole(
    attributed: RunFolder, job: PreparedRun, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """The table of a validation in one process."""
    folder = tmp_path_factory.mktemp("whole") / "r1"
    shutil.copytree(attributed.path, folder)
    validate(RunFolder(folder), job)
    return table(RunFolder(folder))


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Handle SIGINT as a worker does: jobs inherit the handler and are cancelled by SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def harm(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Interrupt the job that takes the fourth task."""
    monkeypatch.setattr(cluster, "PoolJob", functools.partial(HarmedJob, signal=int(number)))


@pytest.mark.slow
def test_a_preempted_job_continues_and_the_table_is_that_of_one_process(
    run: RunFolder, job: PreparedRun, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    harm(monkeypatch, signal.SIGUSR2)
    events = validate(run, job, LOCAL.model_copy(update={"jobs": 2}))
    assert (run.path / "harmed").exists() and table(run) == whole
    (submitted,) = (event for event in events if event["event"] == "submitted")
    assert submitted["cluster"] == "local" and len(submitted["jobs"]) == 2
    done = [event["done"] for event in events if event["event"] == "retrained"]
    assert done == [6, 12, 18, 24, 30, 36]
    assert not any(run.cluster_jobs.iterdir())


@pytest.mark.slow
def test_a_killed_job_loses_only_its_current_task(
    run: RunFolder, job: PreparedRun, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    harm(monkeypatch, signal.SIGKILL)
    failure = r"job \d+ on local ended before its work was done"
    with pytest.raises(RunError, match=failure) as error:
        validate(run, job, LOCAL)
    (log,) = (word for word in str(error.value).split() if "_log." in word)
    assert Path(log.rstrip(";")).is_file()
    assert [record["subset"] for record in read_journal(run.retrainings_file)] == [
        NOTHING.name, "0.3-seed0-0", "0.3-seed0-1",
    ]  # fmt: skip
    events = validate(run, job)
    (resumed,) = (event for event in events if event["event"] == "resumed")
    assert resumed["done"] == 12
    assert table(run) == whole
    # Results that were collected are not collected again from the abandoned pool.
    subsets = [record["subset"] for record in read_journal(run.retrainings_file)]
    assert len(subsets) == len(set(subsets)) == 7
    assert not any(run.cluster_jobs.iterdir())


def test_cancelling_ends_the_jobs(run: RunFolder, job: PreparedRun) -> None:
    processes: list[psutil.Process] = []

    class Stopping(Recorder):
        def __call__(self, event: str, /, **facts: Any) -> None:
            super().__call__(event, **facts)
            if event == "submitted":
                processes.extend(psutil.Process(int(name)) for name in facts["jobs"])
            if event == "retrained":
                processes.extend(processes[0].children())
                raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        Validator(run, "a0001", LOCAL, Stopping()).run(job)
    assert len(processes) == 2
    for process in processes:
        process.wait(60)


def test_results_of_an_abandoned_pool_are_used(
    run: RunFolder, job: PreparedRun, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    validator = Validator(run, "a0001", SMALL, Recorder())
    subsets = [NOTHING, *dict.fromkeys(validator.subsets(job.documents))]
    pool = TaskPool.create(run.cluster_jobs / "lost", [(s, None) for s in subsets])
    retrainer = Retrainer(run, job, False)
    for who in ("1", "2", "1"):
        taken = pool.claim(who)
        assert taken is not None
        pool.finish(taken, who, retrainer(taken.task), None)
    # A task that was taken but not finished is done again.
    assert pool.claim("2") is not None
    done: list[str] = []
    call = Retrainer.__call__

    def counted(self: Retrainer, task: Any, *rest: Any) -> Retrained:
        done.append(task[0].name)
        return call(self, task, *rest)

    monkeypatch.setattr(Retrainer, "__call__", counted)
    validate(run, job)
    assert done == [subset.name for subset in subsets[3:]]
    assert table(run) == whole


def test_a_pool_gives_each_task_to_one(tmp_path: Path) -> None:
    tasks = [(NOTHING, None)] * 3
    pool = TaskPool.create(tmp_path / "pool", tasks)
    first, second = pool.claim("1"), pool.claim("2")
    assert first is not None and second is not None and first.number != second.number
    # An interrupted job gets its task again; a released task goes to any job.
    assert pool.claim("1") == first
    pool.release("2")
    pool.finish(first, "1", Retrained(NOTHING, {"a": [float("nan")]}), "another machine")
    assert pool.claim("1") == second
    ((result, warning),) = pool.new_results()
    assert result.subset == NOTHING and result.measurements["a"][0] != result.measurements["a"][0]
    assert warning == "another machine" and not list(pool.new_results())
    pool.remove()
    assert pool.claim("1") is None


def test_without_submitit(
    run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"--cluster local needs submitit.*pip install"):
        validate(run, job, LOCAL)
    assert not any(run.cluster_jobs.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"slurm_partitoin": "gpu"}, "Unknown argument 'partitoin' for executor 'slurm'"),
        ({"timeout_min": "soon"}, 'Parameter "timeout_min" expected type'),
        ({"slurm_ntasks_per_node": 4}, "raise --jobs"),
    ],
)
def test_wrong_options(
    run: RunFolder, job: PreparedRun, options: dict[str, Any], sentence: str
) -> None:
    request = LOCAL.model_copy(update={"cluster_options": options})
    with pytest.raises(UsageError, match=sentence) as error:
        validate(run, job, request)
    assert "\n" not in str(error.value)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands: jobs are accepted and fail at once."""
    commands = {
        "srun": "exit 1",
        "sbatch": f'cp "$1" {tmp_path}/batch; env > {tmp_path}/env; echo Submitted batch job $$',
        "sacct": 'echo "JobID|State|NodeList"; echo "${5}_[0-1]|OUT_OF_MEMORY|n1"',
        "scancel": f'echo "$@" > {tmp_path}/cancelled',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CONF", "/etc/ours.conf")
    monkeypatch.setitem(cluster.LATE_SECONDS, "slurm", 0.0)
    return tmp_path


def test_slurm_options(run: RunFolder, job: PreparedRun, slurm: Path) -> None:
    with pytest.raises(RunError, match=r"job \d+_0 on slurm ended .*\(OUT_OF_MEMORY\).*its log is"):
        validate(run, job, SLURM)
    batch = (slurm / "batch").read_text()
    for wanted in ("--partition=long", "--array=0-1%2", "--time=60", "--cpus-per-task=1"):
        assert f"#SBATCH {wanted}\n" in batch
    # A job submitted from within another job is not a step of that job.
    environment = (slurm / "env").read_text()
    assert "SLURM_JOB_ID" not in environment and "SLURM_CONF=/etc/ours.conf" in environment
    assert os.environ["SLURM_JOB_ID"] == "12"


def test_a_job_lost_by_slurm_without_accounting(
    run: RunFolder, job: PreparedRun, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SQUEUE_SECONDS", 0.0)
    (slurm / "sacct").write_text("#!/bin/sh\nexit 1\n")
    # squeue lists another job only.
    (slurm / "squeue").write_text("#!/bin/sh\necho 0_1\n")
    (slurm / "squeue").chmod(0o755)
    with pytest.raises(
        RunError, match=r"job \d+_0 on slurm ended before its work was done; memory"
    ):
        validate(run, job, SLURM)


def test_slurm_jobs_are_cancelled(run: RunFolder, job: PreparedRun, slurm: Path) -> None:
    class Stopping(Recorder):
        def __call__(self, event: str, /, **facts: Any) -> None:
            super().__call__(event, **facts)
            if event == "submitted":
                raise StoppedError("stopped")

    recorder = Stopping()
    with pytest.raises(StoppedError):
        Validator(run, "a0001", SLURM, recorder).run(job)
    jobs = recorder.events[-1]["jobs"]
    assert (slurm / "cancelled").read_text().split() == ["--", *jobs]
    # The next validation cancels the jobs of one that was killed.
    (slurm / "cancelled").unlink()
    assert not list(cluster.abandoned_results(run))
    assert (slurm / "cancelled").read_text().split() == ["--", *jobs]


def test_slurm_rejects_the_jobs(run: RunFolder, job: PreparedRun, slurm: Path) -> None:
    text = "#!/bin/sh\necho sbatch: error: invalid partition specified: long >&2\nexit 1\n"
    (slurm / "sbatch").write_text(text)
    with pytest.raises(RunError, match="slurm rejected the jobs: sbatch: error: invalid partition"):
        validate(run, job, SLURM)


def test_without_slurm(run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="has no srun"):
        validate(run, job, SLURM)


def test_only_job_ids_are_passed_to_scancel(tmp_path: Path) -> None:
    jobs = ["12", "13_4", "--user=me", "12 13", "12_", "1;2", ""]
    record = {"cluster": "slurm", "folder": str(tmp_path), "jobs": jobs}
    write_record(tmp_path / "submitted.json", record)
    assert abandoned_slurm_jobs(tmp_path) == ["12", "13_4"]

"""Retrainings as jobs: submitit's own local ones, and a Slurm that only takes them."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.attribution.prepared_run import PreparedRun
from engine.evaluation import on_cluster
from engine.evaluation.pool import Pool
from engine.evaluation.retraining import Retrained, Retrainer
from engine.evaluation.submitting import jobs_of_a_lost_owner
from engine.evaluation.subsets import NOTHING
from engine.evaluation.validate import Validating
from engine.runs.checksummed import write_record
from engine.runs.errors import RunError, StoppedError, UsageError
from engine.runs.journal import read_journal
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from tests.evaluation.test_validating import SMALL, Heard, validate

LOCAL = SMALL.model_copy(update={"cluster": "local"})
SLURM = ValidationRequest(
    drop=(0.3,), count=3, jobs=2, cluster="slurm", cluster_options={"slurm_partition": "long"}
)
FOURTH = "000003"


def table(run: RunFolder) -> list[str]:
    return sorted((run.attributions / "a0001" / "validation.csv").read_text().splitlines())


@pytest.fixture(scope="module")
def whole(
    attributed: RunFolder, job: PreparedRun, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """The table that one process makes."""
    folder = tmp_path_factory.mktemp("whole") / "r1"
    shutil.copytree(attributed.path, folder)
    validate(RunFolder(folder), job)
    return table(RunFolder(folder))


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """As a worker is: jobs inherit it where SIGINT is ignored, and are cancelled by that signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of the pools that are made."""
    made: list[Path] = []
    make = Pool.make

    def noted(folder: Path, tasks: Any) -> Pool:
        made.append(folder)
        return make(folder, tasks)

    monkeypatch.setattr(on_cluster.Pool, "make", noted)
    return made


def once_taken(pools: list[Path], act: Callable[[psutil.Process], None]) -> None:
    """Act on the process that takes the fourth task, while it is at it."""

    def watch() -> None:
        while not (found := [t for p in pools for t in (p / "taken").glob(f"{FOURTH}@*")]):
            # A retraining takes many times as long.
            time.sleep(0.001)
        _, _, name = found[0].name.partition("@")
        act(psutil.Process(int(name)).children()[0])

    threading.Thread(target=watch, daemon=True).start()


def test_rows_are_those_of_one_process_though_a_job_is_preempted(
    run: RunFolder, job: PreparedRun, whole: list[str], pools: list[Path]
) -> None:
    once_taken(pools, lambda process: process.send_signal(signal.SIGUSR2))
    events = validate(run, job, LOCAL.model_copy(update={"jobs": 2}))
    assert table(run) == whole
    (submitted,) = (event for event in events if event["event"] == "submitted")
    assert submitted["cluster"] == "local" and len(submitted["jobs"]) == 2
    done = [event["done"] for event in events if event["event"] == "retrained"]
    assert done == [6, 12, 18, 24, 30, 36]
    assert not any(run.cluster_jobs.iterdir())


def test_a_job_that_is_killed_costs_what_it_was_at(
    run: RunFolder, job: PreparedRun, whole: list[str], pools: list[Path]
) -> None:
    once_taken(pools, lambda process: process.kill())
    with pytest.raises(RunError, match=r"job \d+ on local ended before its work was done") as told:
        validate(run, job, LOCAL)
    (log,) = (word for word in str(told.value).split() if "_log." in word)
    assert Path(log.rstrip(";")).is_file()
    assert [record["subset"] for record in read_journal(run.retrainings_file)] == [
        NOTHING.name, "0.3-seed0-0", "0.3-seed0-1",
    ]  # fmt: skip
    events = validate(run, job)
    (resumed,) = (event for event in events if event["event"] == "resumed")
    assert resumed["done"] == 12
    assert table(run) == whole
    # What the job had finished and its owner taken is not taken again from what it left.
    subsets = [record["subset"] for record in read_journal(run.retrainings_file)]
    assert len(subsets) == len(set(subsets)) == 7
    assert not any(run.cluster_jobs.iterdir())


def test_cancelling_ends_the_jobs(run: RunFolder, job: PreparedRun) -> None:
    processes: list[psutil.Process] = []

    class Stopping(Heard):
        def __call__(self, event: str, /, **facts: Any) -> None:
            super().__call__(event, **facts)
            if event == "submitted":
                processes.extend(psutil.Process(int(name)) for name in facts["jobs"])
            if event == "retrained":
                processes.extend(processes[0].children())
                raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        Validating(run, "a0001", LOCAL, Stopping()).run(job)
    assert len(processes) == 2
    for process in processes:
        process.wait(60)


def test_what_a_lost_owner_did_not_take_is_not_done_again(
    run: RunFolder, job: PreparedRun, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    validating = Validating(run, "a0001", SMALL, Heard())
    wanted = [NOTHING, *dict.fromkeys(validating._wanted(job.documents))]
    pool, retrainer = Pool.make(run.cluster_jobs / "lost", [(s, None) for s in wanted]), None
    retrainer = Retrainer(run, job, False)
    for who in ("1", "2", "1"):
        taken = pool.take(who)
        assert taken is not None
        pool.finish(taken, who, retrainer(taken.task), None)
    # One that was taken only is done like all others.
    assert pool.take("2") is not None
    done: list[str] = []
    call = Retrainer.__call__

    def counted(self: Retrainer, task: Any, *rest: Any) -> Retrained:
        done.append(task[0].name)
        return call(self, task, *rest)

    monkeypatch.setattr(Retrainer, "__call__", counted)
    validate(run, job)
    assert done == [subset.name for subset in wanted[3:]]
    assert table(run) == whole


def test_a_pool_gives_each_task_to_one(tmp_path: Path) -> None:
    tasks = [(NOTHING, None)] * 3
    pool = Pool.make(tmp_path / "pool", tasks)
    first, second = pool.take("1"), pool.take("2")
    assert first is not None and second is not None and first.number != second.number
    # Whoever was interrupted has what it had; what others lost is there for all.
    assert pool.take("1") == first
    pool.release("2")
    pool.finish(first, "1", Retrained(NOTHING, {"a": [float("nan")]}), "another machine")
    assert pool.take("1") == second
    ((found, warning),) = pool.finished()
    assert found.subset == NOTHING and found.measured["a"][0] != found.measured["a"][0]
    assert warning == "another machine" and not list(pool.finished())
    pool.remove()
    assert pool.take("1") is None


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
    asked = LOCAL.model_copy(update={"cluster_options": options})
    with pytest.raises(UsageError, match=sentence) as told:
        validate(run, job, asked)
    assert "\n" not in str(told.value)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands: jobs are taken, and fail at once."""
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
    monkeypatch.setitem(on_cluster.LATE_SECONDS, "slurm", 0.0)
    return tmp_path


def test_what_slurm_is_asked_for(run: RunFolder, job: PreparedRun, slurm: Path) -> None:
    with pytest.raises(RunError, match=r"job \d+_0 on slurm ended .*\(OUT_OF_MEMORY\).*its log is"):
        validate(run, job, SLURM)
    batch = (slurm / "batch").read_text()
    for wanted in ("--partition=long", "--array=0-1%2", "--time=60", "--cpus-per-task=1"):
        assert f"#SBATCH {wanted}\n" in batch
    # A job that is submitted from another one is none of its steps.
    environment = (slurm / "env").read_text()
    assert "SLURM_JOB_ID" not in environment and "SLURM_CONF=/etc/ours.conf" in environment
    assert os.environ["SLURM_JOB_ID"] == "12"


def test_a_job_that_slurm_lost_without_keeping_accounts(
    run: RunFolder, job: PreparedRun, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_cluster, "ASK_SECONDS", 0.0)
    (slurm / "sacct").write_text("#!/bin/sh\nexit 1\n")
    # It has other jobs than ours.
    (slurm / "squeue").write_text("#!/bin/sh\necho 0_1\n")
    (slurm / "squeue").chmod(0o755)
    with pytest.raises(RunError, match=r"job \d+_0 on slurm ended before its work was done, perh"):
        validate(run, job, SLURM)


def test_cancelling_slurm_s_jobs(run: RunFolder, job: PreparedRun, slurm: Path) -> None:
    class Stopping(Heard):
        def __call__(self, event: str, /, **facts: Any) -> None:
            super().__call__(event, **facts)
            if event == "submitted":
                raise StoppedError("stopped")

    heard = Stopping()
    with pytest.raises(StoppedError):
        Validating(run, "a0001", SLURM, heard).run(job)
    jobs = heard.events[-1]["jobs"]
    assert (slurm / "cancelled").read_text().split() == ["--", *jobs]
    # Had it been lost instead, the next one would see to it.
    (slurm / "cancelled").unlink()
    assert not list(on_cluster.finished_by_lost_owners(run))
    assert (slurm / "cancelled").read_text().split() == ["--", *jobs]


def test_slurm_that_takes_no_jobs(run: RunFolder, job: PreparedRun, slurm: Path) -> None:
    text = "#!/bin/sh\necho sbatch: error: invalid partition specified: long >&2\nexit 1\n"
    (slurm / "sbatch").write_text(text)
    with pytest.raises(RunError, match="slurm took no jobs: sbatch: error: invalid partition"):
        validate(run, job, SLURM)


def test_without_slurm(run: RunFolder, job: PreparedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="has no srun"):
        validate(run, job, SLURM)


def test_ids_from_elsewhere_are_checked(tmp_path: Path) -> None:
    jobs = ["12", "13_4", "--user=me", "12 13", "12_", "1;2", ""]
    record = {"cluster": "slurm", "folder": str(tmp_path), "jobs": jobs}
    write_record(tmp_path / "submitted.json", record)
    assert jobs_of_a_lost_owner(tmp_path) == ["12", "13_4"]

"""The supervisor alone: the process that it starts, and what it records."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.daemon import supervisor
from engine.daemon.processes import process_start, send_signal
from engine.runs.environment import ROOT, child_environment
from engine.runs.jobs import AttemptFolder
from engine.runs.states import Ending
from engine.runs.submission import submit_run
from tests.daemon.conftest import CONFIG

SUPERVISE = str(Path(__file__).with_name("supervise.py"))


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptFolder:
    job = submit_run(tmp_path, "20250102T030405-abc123", CONFIG, {"HF_COLOUR": "blue"})
    attempt, lock = job.new_attempt()
    os.close(lock)
    return attempt


def supervise(attempt: AttemptFolder, rank: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Supervise, in this process, a rank that runs some Python; returns the record."""
    # The code reads the attempt's folder from the last argument.
    monkeypatch.setattr(supervisor, "WORKER_COMMAND", [sys.executable, "-I", "-c", rank])
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)}
    lock = attempt.take_lock()
    try:
        assert supervisor.main([str(attempt.path), str(lock)]) == 0
    finally:
        os.close(lock)
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    record = attempt.exit()
    assert record is not None
    return record


def test_the_rank_gets_what_it_needs(
    attempt: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt.write_about(devices=["GPU-7"])
    code = (
        "import os, sys, json; print('noise'); print('log line', file=sys.stderr);"
        "print(json.dumps({'ok': True, 'env': dict(os.environ), 'cwd': os.getcwd(),"
        "'stdin': sys.stdin.read(), 'argument': sys.argv[1], 'group': os.getpgrp() == os.getpid(),"
        "'pipe': os.fstat(int(os.environ['MAGIC_SUPERVISOR_PIPE'])).st_mode}))"
    )
    facts = supervise(attempt, code, monkeypatch)["facts"]
    assert facts["env"]["HF_COLOUR"] == "blue" and facts["env"]["CUDA_VISIBLE_DEVICES"] == "GPU-7"
    assert facts["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert facts["env"]["PATH"] == os.environ["PATH"]
    assert (facts["cwd"], facts["stdin"], facts["argument"]) == ("/", "", str(attempt.path))
    assert facts["group"] is True
    assert attempt.log_file.read_text() == "log line\n"
    about = attempt.about()
    assert about["pid"] == os.getpid() and about["started"] == process_start(os.getpid())
    assert not (attempt.path / "room").exists()


@pytest.mark.parametrize(
    ("code", "ending", "words"),
    [
        ("print('{\"ok\": true}')", Ending.DONE, None),
        ("print('{\"ok\": true}'); raise SystemExit(1)", Ending.DIED, "status 1 and no error"),
        ("print('[1]')", Ending.DIED, "status 0 and no error"),
        ("print('')", Ending.DIED, "status 0 and no error"),
        ("pass", Ending.DIED, "status 0 and no error"),
        ("import os; os.write(1, b'\\xff{')", Ending.DIED, "status 0 and no error"),
        ('print(\'{"ok": false, "message": "no"}\')', Ending.FAILED, "no"),
        ('print(\'{"ok": false, "message": "m", "ending": "x"}\')', Ending.FAILED, "m"),
        ('print(\'{"ok": false, "message": "m", "ending": "full"}\')', Ending.FULL, "m"),
        ("print('x' * 3_000_000); print('{\"ok\": true}')", Ending.DONE, None),
        ("print('{\"ok\": true}', flush=True); import os; os.close(1)", Ending.DONE, None),
        ("import os; os.kill(os.getpid(), 6)", Ending.DIED, "killed by SIGABRT"),
        ("import os; os.kill(os.getpid(), 40)", Ending.DIED, "killed by "),
    ],
)
def test_endings(
    attempt: AttemptFolder, monkeypatch: pytest.MonkeyPatch, code: str, ending: Ending,
    words: str | None,
) -> None:  # fmt: skip
    record = supervise(attempt, code, monkeypatch)
    assert record["ending"] == ending
    assert words is None or words in record["message"]


def test_out_of_memory_is_distinguished_from_other_kills(
    attempt: AttemptFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("pgfault 3\noom_kill 4\n")
    monkeypatch.setattr(supervisor, "_VMSTAT", counter)
    rise = f"open({str(counter)!r}, 'w').write('oom_kill 5\\n');"
    kill = "import os; os.kill(os.getpid(), 9)"
    assert supervise(attempt, kill, monkeypatch)["ending"] == Ending.DIED
    record = supervise(attempt, rise + kill, monkeypatch)
    assert record["ending"] == Ending.FAILED and record["exit_code"] == 1
    for words in ("out of memory", "training.micro_batch_size", "attribution.memory_budget_gb"):
        assert words in record["message"]


RANKS = """
import sys
sys.path.insert(0, {root!r})
from engine.distributed import local_ranks as ranks
ranks.RANK_COMMAND = [sys.executable, "-c", {rank!r}]
sys.exit(ranks.run_ranks(2, []))
"""
LATE = "import os, time; rank = os.environ['RANK']; time.sleep(0.1 if rank == '0' else 0);"
LOST = 'print(\'{"ok": false, "message": "another rank ended", "ending": "died"}\'); exit(1)'


@pytest.mark.parametrize(
    ("rank", "ending", "words"),
    [
        (f"{LATE}os.kill(os.getpid(), 9) if rank == '1' else None;{LOST}", "died",
         "rank 1 was killed by SIGKILL"),
        (f"{LATE}os._exit(3) if rank == '1' else None;{LOST}", "died",
         "rank 1 exited without an outcome"),
        (f"{LATE}{LOST}", "died", "another rank ended"),
        (LATE + 'print(\'{"ok": false, "message": "bad rate"}\'); exit(2)', "failed", "bad rate"),
    ],
)  # fmt: skip
def test_a_lost_rank_of_several_is_a_death(
    attempt: AttemptFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    rank: str, ending: str, words: str,
) -> None:  # fmt: skip
    counter = tmp_path / "vmstat"
    counter.write_text("oom_kill 4\n")
    monkeypatch.setattr(supervisor, "_VMSTAT", counter)
    record = supervise(attempt, RANKS.format(root=str(ROOT), rank=rank), monkeypatch)
    assert record["ending"] == ending and words in record["message"]


def test_a_rank_of_several_that_the_system_killed_for_memory(
    attempt: AttemptFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("oom_kill 4\n")
    monkeypatch.setattr(supervisor, "_VMSTAT", counter)
    rank = f"import os; open({str(counter)!r}, 'w').write('oom_kill 5'); os.kill(os.getpid(), 9)"
    record = supervise(attempt, RANKS.format(root=str(ROOT), rank=rank), monkeypatch)
    assert record["ending"] == Ending.FAILED and "out of memory" in record["message"]


def test_kills_of_either_version_of_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = tmp_path / "cgroup"
    first, second = groups / "memory/a", groups / "b/c"
    for folder, name in ((first, "memory.oom_control"), (second, "memory.events")):
        folder.mkdir(parents=True)
        (folder / name).write_text("under_oom 0\noom_kill 1\n")
    (tmp_path / "self").write_text("4:memory:/a\n3:cpu,cpuacct:/a\n0::/b/c\n")
    monkeypatch.setattr(supervisor, "_MEMBERSHIP", tmp_path / "self")
    monkeypatch.setattr(supervisor, "_CGROUPS", groups)
    monkeypatch.setattr(supervisor, "_VMSTAT", tmp_path / "missing")
    for folder, name in ((first, "memory.oom_control"), (second, "memory.events")):
        kills = supervisor.OutOfMemoryKills()
        assert not kills.happened()
        (folder / name).write_text("under_oom 0\noom_kill 2\n")
        assert kills.happened()


def test_what_the_rank_left_running_ends_with_it(
    attempt: AttemptFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import subprocess, sys;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        ' close_fds=False); print(\'{"ok": true, "child": %d}\' % child.pid)'
    )
    child = supervise(attempt, code, monkeypatch)["facts"]["child"]
    deadline = time.monotonic() + 5
    while (state := _state(child)) not in ("Z", None) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state in ("Z", None) and not attempt.is_held()


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


def test_a_rank_that_cannot_be_started_is_recorded(
    attempt: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor.subprocess, "Popen", _raise(OSError(12, "no memory")))
    record = supervise(attempt, "", monkeypatch)
    assert record["ending"] == Ending.DIED and "could not be started" in record["message"]
    monkeypatch.setattr(supervisor.subprocess, "Popen", _raise(OSError(28, "no space")))
    assert supervise(attempt, "", monkeypatch)["ending"] == Ending.FULL


def _raise(error: Exception) -> Any:
    def fail(*arguments: Any, **more: Any) -> Any:
        raise error

    return fail


def test_locks_and_leases_are_held_until_the_last_process_is_gone(
    attempt: AttemptFolder, tmp_path: Path
) -> None:
    (attempt.job_path / "request.json").write_text(
        json.dumps({"work": "run", "attribution": None,
                    "environment": {"HF_FAKE_RANK": '[{"wait_for": "never"}]'}})
    )  # fmt: skip
    lock = attempt.take_lock()
    lease = os.open(tmp_path / "lease", os.O_RDWR | os.O_CREAT)
    process = subprocess.Popen(
        [sys.executable, "-P", SUPERVISE, str(attempt.path), str(lock), str(lease)],
        pass_fds=[lock, lease], env=child_environment(os.environ),
    )  # fmt: skip
    os.close(lock)
    os.close(lease)
    while not (attempt.path / "begun").exists():
        time.sleep(0.01)
    rank = int(attempt.log_file.read_text().split()[1])
    targets = {os.readlink(f"/proc/{rank}/fd/{fd}") for fd in os.listdir(f"/proc/{rank}/fd")}
    assert {str(attempt.path / "lock"), str(tmp_path / "lease")} <= targets
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while attempt.is_held() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not attempt.is_held() and attempt.exit() is None


def test_the_end_is_recorded_on_a_disk_that_is_full(tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("on_small_disk.py"))
    mount = 'mount -t tmpfs -o size=512k none "$1" || exit 77; exec "$2" -P "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, script],
        env=child_environment(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this system lets nobody mount a small disk of their own")
    record, state = json.loads(done.stdout)
    assert (record["ending"], record["message"]) == ("full", "the disk is full; free some")
    assert state == "blocked"


def test_signals_reach_only_the_process_that_was_meant() -> None:
    process = subprocess.Popen(["sleep", "60"])
    started = process_start(process.pid)
    assert started is not None
    assert not send_signal(process.pid, started - 1, signal.SIGKILL)
    assert process.poll() is None
    assert send_signal(process.pid, started, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert process_start(process.pid) is None
    assert not send_signal(process.pid, started, signal.SIGKILL)


def test_without_process_descriptors_signals_go_by_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pidfd_open", _raise(OSError(38, "not implemented")))
    test_signals_reach_only_the_process_that_was_meant()


SCRIPT = """
import sys, json
sys.path.insert(0, {root!r})
import {module}
print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))
"""


def modules_of(module: str) -> set[str]:
    script = SCRIPT.format(root=str(ROOT), module=module)
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_a_supervisor_loads_next_to_nothing() -> None:
    heavy = {"pydantic", "yaml", "psutil", "numpy", "google_crc32c", "asyncio", "sqlite3"}
    assert modules_of("engine.daemon.supervisor") & heavy == set()


def test_the_engine_loads_no_torch() -> None:
    loaded = modules_of("engine.daemon.engine")
    assert loaded & {"torch", "transformers", "datasets", "zarr", "textual", "pandas"} == set()

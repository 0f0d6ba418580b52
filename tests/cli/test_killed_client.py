"""A client that is killed leaves no worker behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.runs.environment import child_environment

CLIENT = """
import sys, threading
from magic_tui.client import worker
worker.WORKER_COMMAND = [sys.executable, "-c", {worker!r}]
if {thread}:
    thread = threading.Thread(target=worker.run_worker, args=(["plan"],))
    thread.start()
    thread.join()
else:
    worker.run_worker(["plan"])
"""
WORKER = """
import os, time
from engine.worker.process import end_with_parent
end_with_parent()
open({file!r}, "w").write(str(os.getpid()) + "\\n")
time.sleep(60)
"""
RANKS = """
import os, sys
from engine.distributed import local_ranks as ranks
from engine.worker.process import end_with_parent
end_with_parent()
ranks.RANK_COMMAND = [sys.executable, "-c", {worker!r}]
sys.exit(ranks.run_ranks(1, []))
"""


@pytest.mark.parametrize(("thread", "several"), [(False, False), (True, True)])
def test_a_killed_client_leaves_no_worker(tmp_path: Path, thread: bool, several: bool) -> None:
    file = tmp_path / "pid"
    worker = WORKER.format(file=str(file))
    if several:
        worker = RANKS.format(worker=worker)
    environment = {**child_environment(os.environ), "TMPDIR": str(tmp_path)}
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT.format(worker=worker, thread=thread)], env=environment
    )
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < deadline and client.poll() is None
        time.sleep(0.02)
    workers = [psutil.Process(client.pid), *psutil.Process(client.pid).children(recursive=True)]
    assert int(file.read_text()) in [process.pid for process in workers]
    client.send_signal(signal.SIGKILL)
    client.wait()
    gone, alive = psutil.wait_procs(workers[1:], timeout=10)
    assert not alive and len(gone) == 1 + several

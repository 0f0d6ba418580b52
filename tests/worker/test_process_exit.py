"""A worker exits when its work is done, without Python's teardown."""

import subprocess
import sys

# What hangs here is what is destroyed last: objects of modules, when no atexit function is left.
LIBRARY = """
import atexit, time
class Hanging:
    def __del__(self):
        time.sleep(600)
kept = Hanging()
atexit.register(lambda: print("the library has cleaned up"))
"""
WORKER = f"""
from engine.worker.process import ProcessExit
leaving = ProcessExit()
{LIBRARY}
print("the work is done")
leaving.code = 3
"""


def test_exits_with_its_code_and_all_output() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WORKER], capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 3, ended.stderr
    assert ended.stdout.split(b"\n")[:2] == [b"the work is done", b"the library has cleaned up"]


def test_without_a_code_python_exits_normally() -> None:
    script = WORKER.replace("leaving.code = 3", "del kept.__class__.__del__; raise SystemExit(2)")
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 2, ended.stderr

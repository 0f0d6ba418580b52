"""Files of a run are private to their user, and temporary folders end with their process."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.runs import temporary as scratch
from engine.runs.errors import OUT_OF_MEMORY, RunError, is_out_of_memory, unexpected
from engine.runs.temporary import scratch_folder

HOLD = (
    "import sys, time; from engine.runs.temporary import scratch_folder\n"
    "with scratch_folder('held') as folder:\n"
    "    (folder / 'text').write_text('x'); print(folder, flush=True); time.sleep(60)"
)


def test_a_killed_process_leaves_a_folder_only_until_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_GRACE_SECONDS", 0.0)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        with scratch_folder("mine") as folder:
            assert left.exists() and folder.stat().st_mode & 0o777 == 0o700
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert left.exists() and not folder.exists()
    time.sleep(0.01)
    with scratch_folder("mine"):
        assert not left.exists()


def test_short_memory_is_reported_as_such() -> None:
    allocator = "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory"
    wrapped = RunError("the model cannot be loaded (RuntimeError: std::bad_alloc)")
    chained = RunError("something else")
    chained.__cause__ = MemoryError()
    for error in (
        MemoryError(), RuntimeError(allocator), RuntimeError("can't start new thread"), wrapped,
        ImportError("libtorch.so: failed to map segment from shared object"), chained,
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ):  # fmt: skip
        assert is_out_of_memory(error) and unexpected(error) == OUT_OF_MEMORY, error
    for other in (RuntimeError("shapes differ"), ImportError("no module"), OSError(2, "none")):
        assert not is_out_of_memory(other)
    hidden = RunError("the free memory cannot hold one query")
    hidden.__context__, hidden.__suppress_context__ = MemoryError(), True
    assert not is_out_of_memory(hidden)

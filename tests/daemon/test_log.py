"""The engine's log: one sentence per record, and a bounded file."""

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.daemon import log
from engine.daemon.log import drop_expected_tracebacks
from engine.runs.environment import child_environment
from engine.runs.errors import RunError


def logged(name: str, message: str, error: BaseException | None) -> str | None:
    """The text that a record is written as."""
    info = None if error is None else (type(error), error, None)
    record = logging.LogRecord(name, logging.ERROR, "x.py", 1, message, (), info)
    if not drop_expected_tracebacks(record):
        return None
    return logging.Formatter("%(levelname)s %(message)s").format(record)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (asyncio.CancelledError("timeout"), "INFO a request was cut off: CancelledError timeout"),
        (BrokenPipeError(32, "Broken pipe"), "INFO a request was cut off: BrokenPipeError [Err"),
        (RunError("x is damaged; remove it"), "ERROR it failed: x is damaged; remove it"),
        (OSError(28, "No space", "/x"), "ERROR it failed: OSError [Errno 28] No space: '/x'"),
        (None, "ERROR it failed\n"),
    ],
)
def test_errors_that_are_no_surprise_have_a_sentence(
    error: BaseException | None, text: str
) -> None:
    record = logged("uvicorn.error", "it failed\n", error)
    assert record is not None and record.startswith(text) and "Traceback" not in record


def test_unexpected_errors_have_a_traceback() -> None:
    record = logged("x", "it failed", ZeroDivisionError("a"))
    assert record is not None and "ZeroDivisionError: a" in record
    assert logged("uvicorn.error", "Cancel 3 running task(s), timeout exceeded", None) is None


SCRIPT = """
import logging, os, sys
from pathlib import Path
from engine.daemon import log
log.LARGEST_BYTES = 1000
log.set_up_log(Path(sys.argv[1]))
for number in range(100):
    logging.info("line %d", number)
os.write(2, b"from a library\\n")
print("on stdout", flush=True)
"""


def test_the_log_is_put_aside_when_it_is_long(tmp_path: Path) -> None:
    file = tmp_path / "engine.log"
    with open(file, "ab") as output:
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(file)], stdout=output, stderr=output, check=True,
            env=child_environment(os.environ),
        )  # fmt: skip
    text, before = file.read_text(), (tmp_path / "engine.log.1").read_text()
    assert len(text) < 1200 and 1000 <= len(before) < 1200
    assert text.endswith("line 99\nfrom a library\non stdout\n") and "line 80" in before + text
    assert file.stat().st_mode & 0o077 == 0


def test_a_log_that_is_no_file_is_left_alone(tmp_path: Path) -> None:
    script = SCRIPT.replace("sys.argv[1]", repr(str(tmp_path / "engine.log")))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True,
        env=child_environment(os.environ),
    )  # fmt: skip
    assert done.stderr.count(b"line ") == 100 and not list(tmp_path.iterdir())
    assert log.LARGEST_BYTES == 4_000_000

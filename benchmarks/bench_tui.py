"""Speed of the dashboard in a real terminal, on scores too large to be read as a whole.

    python -m benchmarks.bench_tui [FOLDER]

Creates the run in FOLDER (default: a temporary one) unless it exists, opens `magic tui` in a
pseudo-terminal of 80×24 with 256 colours, presses keys and times the output.
"""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.tui.huge_store import NEEDLE, RUN_ID, write_huge

COMMAND = [sys.executable, "-m", "magic_tui", "tui"]
HELLO = [
    sys.executable,
    "-c",
    "from textual.app import App; from textual.widgets import Static;"
    "App.compose = lambda self: [Static('hello you')]; App().run()",
]
"""A minimal Textual app: the baseline of the start time."""
STARTS = 7
QUIET_SECONDS = 0.25
PATIENCE_SECONDS = 60.0
KEYS = {"down": "j", "page down": "\x1b[6~", "page up": "\x1b[5~", "token": "l", "strong": "n"}
_ESCAPES = re.compile(rb"\x1b\[[0-9;?<=>:]*[ -/]*[@-~]|\x1b\][^\a]*\a|\x1b.")


@dataclass
class Reply:
    """The output after one key."""

    first: float
    """Seconds to the first byte."""
    last: float
    """Seconds to the last byte of the output."""
    size: int


class Dashboard:
    """A real ``magic tui`` in a pseudo-terminal."""

    def __init__(self, command: list[str], size: tuple[int, int] = (80, 24)) -> None:
        self.began = time.monotonic()
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS="", LINES="")
            os.environ.pop("COLORTERM", None)
            os.execv(sys.executable, command)
        packed = struct.pack("HHHH", size[1], size[0], 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, packed)
        self.process = psutil.Process(self.pid)
        self.seen = b""

    def press(self, keys: str) -> Reply:
        """Press keys and wait until the output ends."""
        began = time.monotonic()
        os.write(self.master, keys.encode())
        first = last = began
        size = 0
        while (now := time.monotonic()) - (last if size else began) < QUIET_SECONDS * (
            1 if size else 8
        ):
            if select.select([self.master], [], [], 0.01)[0]:
                data = self._read()
                now = time.monotonic()
                first = first if size else now
                last, size = now, size + len(data)
        return Reply(first - began, last - began, size)

    def wait_for(self, text: str) -> float:
        """Seconds from now until a text is printed."""
        began = time.monotonic()
        start = len(self.seen)
        while time.monotonic() - began < PATIENCE_SECONDS:
            if select.select([self.master], [], [], 0.01)[0]:
                self._read()
                if text.encode() in _ESCAPES.sub(b"", self.seen[max(0, start - 200) :]):
                    return time.monotonic() - began
        screen = _ESCAPES.sub(b" ", self.seen[-6000:]).decode(errors="replace")
        raise SystemExit(f"never saw {text!r}; last: {screen}")

    @property
    def memory(self) -> float:
        """Resident bytes in millions."""
        return self.process.memory_info().rss / 1e6

    def idle(self, seconds: float) -> float:
        """Share of one core that the idle dashboard uses."""
        before = sum(self.process.cpu_times()[:2])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                self._read()
        return (sum(self.process.cpu_times()[:2]) - before) / seconds

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.master)

    def _read(self) -> bytes:
        try:
            data = os.read(self.master, 65536)
        except OSError:
            raise SystemExit(f"the dashboard ended: {self.seen[-500:]!r}") from None
        self.seen += data
        return data


def measure(runs: Path) -> Iterator[tuple[str, str]]:
    """Use the dashboard; yields each measurement's name and result as text."""
    yield from _starts(runs)
    dashboard = Dashboard([*COMMAND, RUN_ID, "--runs-dir", str(runs)])
    try:
        dashboard.wait_for("Live")
        dashboard.press("")
        for key in "[]":
            yield _told(f"live, {key}", [dashboard.press(key) for _ in range(20)])
        yield "idle, live", f"{dashboard.idle(5):.1%} of a core"
        yield from _influences(dashboard)
        yield from _document(dashboard)
        yield "idle", f"{dashboard.idle(5):.1%} of a core"
    finally:
        dashboard.close()


def _starts(runs: Path) -> Iterator[tuple[str, str]]:
    """Time from the command to the first frame; cases alternate, because load varies."""
    here = ["--runs-dir", str(runs)]
    cases = {
        "minimal Textual app": (HELLO, "hello you"),
        "start on Runs": ([*COMMAND, *here], "1 Runs"),
        "start on Live": ([*COMMAND, RUN_ID, *here], "2 Live"),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(STARTS):
        for name, (command, text) in cases.items():
            dashboard = Dashboard(command)
            times[name].append(1000 * dashboard.wait_for(text))
            dashboard.close()
    least = statistics.median(next(iter(times.values())))
    for name, milliseconds in times.items():
        middle = statistics.median(milliseconds)
        yield (
            f"{name}, first frame",
            (
                f"median {middle:.0f} ms, {min(milliseconds):.0f} to {max(milliseconds):.0f} ms; "
                f"{middle / least:.2f} times the minimal app"
            ),
        )


def _influences(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    began = time.monotonic()
    os.write(dashboard.master, b"4")
    dashboard.wait_for("300,000 documents")
    yield "4: ranked list painted", f"{1000 * (time.monotonic() - began):.0f} ms"
    dashboard.press("")
    before = dashboard.memory
    yield "memory, list open", f"{before:.0f} MB"
    for name in ("down", "page down", "page up"):
        yield _told(name, [dashboard.press(KEYS[name]) for _ in range(40)])
    yield _told("to the end", [dashboard.press("G"), dashboard.press("g"), dashboard.press("G")])
    dashboard.press("g")
    for keys in ("/", NEEDLE):
        dashboard.press(keys)
    began = time.monotonic()
    os.write(dashboard.master, b"\r")
    dashboard.wait_for(": 6 documents")
    yield "search through all texts", f"{time.monotonic() - began:.1f} s"
    dashboard.press("\x1b")
    yield _told("next query", [dashboard.press("Q") for _ in range(20)])
    for _ in range(100):
        os.write(dashboard.master, KEYS["page down"].encode())
        dashboard.idle(0.05)
    dashboard.press("")
    grown = dashboard.memory - before
    yield "memory grown by 20 queries, 140 pages, a search", f"{grown:+.0f} MB"


def _document(dashboard: Dashboard) -> Iterator[tuple[str, str]]:
    began = time.monotonic()
    os.write(dashboard.master, b"\r")
    dashboard.wait_for("scale: this document")
    yield "enter: document painted", f"{1000 * (time.monotonic() - began):.0f} ms"
    dashboard.press("")
    for name in ("token", "strong", "page down"):
        yield _told(f"document, {name}", [dashboard.press(KEYS[name]) for _ in range(30)])
    yield _told("document, next query", [dashboard.press("Q") for _ in range(10)])


def _told(name: str, replies: list[Reply]) -> tuple[str, str]:
    first = sorted(1000 * reply.first for reply in replies)
    p95 = first[min(len(first) - 1, round(0.95 * (len(first) - 1)))]
    size = max(reply.size for reply in replies)
    settled = statistics.median(1000 * reply.last for reply in replies)
    return name, (
        f"first byte p50 {statistics.median(first):.0f} ms, p95 {p95:.0f} ms; "
        f"complete {settled:.0f} ms; at most {size:,} bytes"
    )


def main() -> None:
    """Measure and print."""
    with contextlib.ExitStack() as stack:
        folder = Path(
            sys.argv[1] if len(sys.argv) > 1 else stack.enter_context(tempfile.TemporaryDirectory())
        )
        if not (folder / RUN_ID).exists():
            write_huge(folder)
        for what, much in measure(folder):
            print(f"{what:<50} {much}", flush=True)


if __name__ == "__main__":
    main()

"""What ``magic run`` and ``magic watch`` show on a terminal."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

from rich.console import Console

from magic_tui.cli.progress import ProgressView
from magic_tui.client.stream import Message
from tests.cli.fake_run import training_events
from tests.cli.test_run import succeed
from tests.fake_engine import FakeEngine, run_view

ROOT = Path(__file__).resolve().parents[2]
RUN = "20250102T030405-abc123"


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Run ``magic`` on a terminal of 80 by 24; its exit code and all it wrote."""
    leader, follower = pty.openpty()  # words: ok
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    main = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{main}; from magic_tui.cli.main import main; main()", *arguments],
        stdin=follower, stdout=follower, stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
    )  # fmt: skip
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        written += piece
    os.close(leader)
    return process.wait(20), written.decode()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_run_leaves_the_terminal_as_it_was(
    runs: Path, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.on_submit = lambda wanted: succeed(engine, wanted)
    config = tmp_path / "run.yaml"
    config.write_text("model: {path: m}\ndata: {path: d}\n")
    code, written = on_a_terminal("run", str(config))
    assert code == 0 and "Traceback" not in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") > 0
    assert "✓ training   12 steps" in plain(written) and "most helpful" in plain(written)


def rendered(*messages: Message) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with ProgressView(console) as view:
        for message in messages:
            view.add(message)
        assert view._bar is not None
        view._bar._progress.refresh()
        assert isinstance(console.file, io.StringIO)
        lines = plain(console.file.getvalue()).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def state(name: str, reason: str | None = None) -> Message:
    return Message("state", run_view(RUN, name, reason=reason))


def records(count: int) -> list[Message]:
    events: list[tuple[str, dict[str, Any]]] = training_events(12)[:count]
    return [
        Message("record", {"seq": seq, "time": float(seq), "event": event, **facts})
        for seq, (event, facts) in enumerate(events)
    ]


def test_a_wait_is_shown_with_its_reason() -> None:
    reason = "waits for the disk: 0.3 GB are free, 1.0 GB are kept free for whatever else needs it"
    text = rendered(state("blocked", reason))
    assert "blocked" in text and "0.3 GB are free" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_wait_hides_the_phase_and_gives_way_to_it() -> None:
    begun = records(6)
    assert "starting" in rendered(state("starting"), *begun).splitlines()[-2]
    assert "training" in rendered(state("starting"), *begun, state("running")).splitlines()[-2]
    assert "died" in rendered(*begun, state("interrupted", "its process died")).splitlines()[-1]

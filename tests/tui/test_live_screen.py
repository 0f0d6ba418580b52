"""Screen 2: a run is followed, its history scrubbed, and problems are shown in place."""

import re
import shutil
from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine.runs.journal import JournalWriter
from engine.runs.run_folder import RunFolder
from magic_tui.dashboard.app import MagicApp
from magic_tui.live.live_screen import LiveScreen
from tests.cli.fake_run import FakeRun, replay_events, sample_texts
from tests.fake_engine import FakeEngine
from tests.tui.driving import Terminal, drive, screen_lines, screen_text, shows, until
from tests.tui.hostile import TEXTS, unsafe_in
from tests.tui.terminal_model import bytes_of

STEPS = 12
PHASE = {
    "phase": "replay", "done": 6, "total": STEPS, "step": 6, "step_seconds": 0.5, "loss": None,
    "remaining_seconds": 3.0,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that has trained and is about to be measured and replayed."""
    return FakeRun(finished=False).write(tmp_path)


def write_events(run: RunFolder, count: int | None = None, first: int = 0) -> None:
    journal = JournalWriter(run.events_file)
    for event, facts in replay_events(STEPS)[first:count]:
        journal.append(event, **facts)
    journal.close()


def test_a_run_is_followed_to_its_end(
    run: RunFolder, engine: FakeEngine, terminal: Terminal
) -> None:
    engine.add(run.id, "running", path=str(run.path), name="mine", phase=PHASE)
    half = len(replay_events(STEPS)) // 2

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "12/12")
        write_events(run, half)
        await shows(pilot, "mine running · replaying ")
        await until(pilot, lambda: "◀" in screen_text(pilot.app), "the cursor")
        text = screen_text(pilot.app)
        # The engine's view says 6 of 12 and 3.0 s left; all of the screen follows the journal.
        done = re.findall(r"replaying (\d+)/12|◀▓* +(\d+)/12", text)
        assert len({first or second for first, second in done}) == 1 < len(done), text
        assert "replaying 6/12" not in text and "s left" in text and "3.0 s left" not in text
        for words in ("TRAIN", "STORE", "REPLAY", "loss", "learning rate", "gradient", "memory"):
            assert words in text
        assert all(len(line) == terminal.width for line in screen_lines(pilot.app))
        write_events(run, first=half)
        engine.runs[run.id] |= {"phase": None, "attributions": 1}
        engine.turn(run.id, "succeeded")
        await shows(pilot, "attribution a0001 is complete")
        await shows(pilot, "4 shows what helped and harmed")

    drive(MagicApp(run.path.parent, run.id, 2), task, terminal)


def test_scrubbing_through_the_history(run: RunFolder) -> None:
    write_events(run)

    async def task(pilot: Pilot[None]) -> None:
        screen = pilot.app.screen
        assert isinstance(screen, LiveScreen)
        await shows(pilot, "attribution a0001 is complete")
        whole = screen_text(pilot.app).splitlines()[2:6]
        await pilot.press("left_square_bracket")
        await shows(pilot, "history")
        for _ in range(100):
            await pilot.press("left_square_bracket")
        await shows(pilot, "history 0 %")
        assert "no step is trained yet" in screen_text(pilot.app)
        await pilot.press("right_curly_bracket", "right_curly_bracket")
        await shows(pilot, "training 0/12")
        await pilot.press("colon", *"5", "enter")
        await shows(pilot, "training 6/12")
        await pilot.press("full_stop")
        await until(pilot, lambda: "history" not in screen_lines(pilot.app)[0])
        assert screen_text(pilot.app).splitlines()[2:6] == whole

    drive(MagicApp(run.path.parent, run.id, 2), task)


def test_scrubbing_is_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun(texts=sample_texts(400), finished=False).write(tmp_path)
    journal = JournalWriter(run.events_file)
    for event, facts in replay_events(200):
        journal.append(event, **facts)
    journal.close()

    async def begin(pilot: Pilot[None]) -> None:
        await shows(pilot, "attribution a0001 is complete")

    keys = ["left_square_bracket"] * 30 + ["right_square_bracket"] * 10
    sizes = bytes_of(monkeypatch, MagicApp(tmp_path, run.id, 2), begin, keys)
    assert len(sizes) == len(keys) and 100 < max(sizes) < 4000, sizes


def test_waiting_jobs_and_a_reason_too_long_for_the_line(
    run: RunFolder, engine: FakeEngine
) -> None:
    view = engine.add(run.id, "running", path=str(run.path), name="n" * 40, phase=PHASE)
    second = {**view["job"], "number": 2, "attribution": "a0002", "state": "queued"}
    first = {**view["job"], "state": "running"}
    engine.runs[run.id] = {**view, "job": first, "jobs": [first, second]}
    write_events(run, 17)
    reason = "the model could not be read because " + "its file is cut off and " * 4 + "so it ends"

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "a0002 waits behind a0001")
        line = screen_lines(pilot.app)[1]
        assert line.rstrip().endswith("replaying 6/12 · 0.7 s left"), line
        engine.runs[run.id] = {**view, "phase": None}
        engine.turn(run.id, "failed", reason)
        await shows(pilot, "so it ends")
        assert "a0002" not in screen_text(pilot.app)

    drive(MagicApp(run.path.parent, run.id, 2), task)


def test_a_removed_trajectory_is_not_on_disk(run: RunFolder) -> None:
    journal = JournalWriter(run.events_file)
    for step in (0, 4, 8, 12):
        journal.append("checkpoint", kind="state", step=step, bytes=100)
    journal.close()

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "4 D")
        shutil.rmtree(run.trajectory)
        await shows(pilot, "0 D")
        await pilot.press("left_square_bracket")
        await shows(pilot, "3 D")

    drive(MagicApp(run.path.parent, run.id, 2), task)


def test_zoom_shows_fewer_steps_and_all_again(run: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "12/12")
        await pilot.press("plus")
        await shows(pilot, "steps 2 to 11, 0 shows all")
        await pilot.press("less_than_sign")
        await shows(pilot, "steps 0 to 9")
        await pilot.press("0")
        await shows(pilot, "on disk")

    drive(MagicApp(run.path.parent, run.id, 2), task)


def test_reopened_it_looks_the_same(run: RunFolder, engine: FakeEngine) -> None:
    engine.add(run.id, "running", path=str(run.path), phase=PHASE)
    write_events(run, 10)
    seen = []

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "◀")
        await shows(pilot, "2/12")
        await shows(pilot, "machine")
        await pilot.pause(0.6)
        seen.append(screen_text(pilot.app))

    for _ in range(2):
        drive(MagicApp(run.path.parent, run.id, 2), task)
    assert seen[0] == seen[1]


def test_a_run_folder_deleted_underneath(run: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "12/12")
        shutil.rmtree(run.path)
        await shows(pilot, f"the folder of run {run.id} is gone")
        await pilot.press("1")
        await until(pilot, lambda: getattr(pilot.app.screen, "NUMBER", 0) == 1)

    drive(MagicApp(run.path.parent, run.id, 2), task)


def test_a_damaged_journal_is_reported(run: RunFolder) -> None:
    lines = run.events_file.read_bytes().splitlines(keepends=True)
    lines[5] = lines[5].replace(b"loss", b"lost")
    run.events_file.write_bytes(b"".join(lines))

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "line 6 is damaged")

    drive(MagicApp(run.path.parent, run.id, 2), task)


def test_no_message_controls_the_terminal(run: RunFolder, engine: FakeEngine) -> None:
    journal = JournalWriter(run.events_file)
    for text in TEXTS:
        clean = text.encode(errors="replace").decode()
        journal.append("warning", message=clean)
    journal.close()
    run.logs.mkdir()
    (run.logs / "1.log").write_bytes("\n".join(TEXTS).encode(errors="surrogatepass"))
    clean = TEXTS[0]
    engine.add(run.id, "failed", path=str(run.path), name=clean, reason=clean, model=clean)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "surrogates")
        assert unsafe_in(pilot.app) == []
        await pilot.press("o")
        await shows(pilot, "eight bit")
        assert unsafe_in(pilot.app) == []
        await pilot.press("question_mark")
        await pilot.pause(0.1)
        assert unsafe_in(pilot.app) == []

    drive(MagicApp(run.path.parent, run.id, 2), task, Terminal(120, 40))


def test_no_requests_while_another_screen_is_open(run: RunFolder, engine: FakeEngine) -> None:
    engine.add(run.id, "running", path=str(run.path), phase=PHASE)
    write_events(run, 17)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "replaying")
        pilot.app.open_screen(0)  # type: ignore[attr-defined]
        await shows(pilot, "Which training documents")
        await pilot.pause(1.2)
        before = len(engine.requests)
        await pilot.pause(1.5)
        assert len(engine.requests) == before

    drive(MagicApp(run.path.parent, run.id, 2), task)


def test_a_lost_engine_is_reported(run: RunFolder, engine: FakeEngine) -> None:
    engine.add(run.id, "running", path=str(run.path), phase=PHASE)
    write_events(run, 17)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "replaying 6/12")
        engine.stop()
        await shows(pilot, "a running run continues without it")

    drive(MagicApp(run.path.parent, run.id, 2), task)

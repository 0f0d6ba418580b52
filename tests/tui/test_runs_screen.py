"""Screen 1: the list follows the engine, survives its death, and confirms before it removes."""

from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine.runs.run_folder import RunFolder
from magic_tui.client.engine_process import stopped_note
from magic_tui.dashboard.app import MagicApp
from tests.cli.fake_run import FakeRun
from tests.fake_engine import FakeEngine
from tests.tui.driving import Terminal, drive, screen_lines, screen_text, shows, until
from tests.tui.hostile import TEXTS, unsafe_in
from tests.tui.terminal_model import bytes_of

A, B = "20250102T030405-abc123", "20250103T030405-abc124"
PHASE = {
    "phase": "replay", "done": 30, "total": 60, "step": 29, "step_seconds": 0.5, "loss": None,
    "remaining_seconds": 15.0,
}  # fmt: skip


def test_runs_are_listed_newest_first_and_opened(finished: RunFolder, engine: FakeEngine) -> None:
    engine.add(A, "succeeded", path=str(finished.path), name="older", attributions=1)
    engine.add(B, "running", path=str(finished.path.parent / B), name="newer", phase=PHASE)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "replaying 50 %")
        lines = screen_lines(pilot.app)
        rows = [line for line in lines if "newer" in line or "older" in line]
        assert "newer" in rows[0] and "older" in rows[1] and "15 s" in rows[0]
        assert all(len(line) == 80 for line in lines)
        await pilot.press("j")
        await shows(pilot, f"✓ {A}")
        await pilot.press("enter")
        await until(pilot, lambda: getattr(pilot.app.screen, "NUMBER", 0) == 4)
        assert pilot.app.selection.run == A  # type: ignore[attr-defined]
        await pilot.press("1", "k", "enter")
        await until(pilot, lambda: getattr(pilot.app.screen, "NUMBER", 0) == 2)
        assert pilot.app.selection.run == B  # type: ignore[attr-defined]

    drive(MagicApp(finished.path.parent), task)


def test_digits_look_at_the_run_under_the_cursor(tmp_path: Path, engine: FakeEngine) -> None:
    for run in (A, B):
        FakeRun().write(tmp_path, run)
        engine.add(run, "succeeded", path=str(tmp_path / run))
    app = MagicApp(tmp_path)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, f"✓ {B}")
        for keys, number, run in ((("2",), 2, B), (("1", "j", "8"), 8, A)):
            await pilot.press(*keys)
            await until(pilot, lambda n=number: getattr(app.screen, "NUMBER", 0) == n)
            assert app.selection.run == run

    drive(app, task)


def test_the_palette_looks_at_the_run_under_the_cursor(tmp_path: Path, engine: FakeEngine) -> None:
    for run in (A, B):
        FakeRun().write(tmp_path, run)
        engine.add(run, "succeeded", path=str(tmp_path / run))
    app = MagicApp(tmp_path, A)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, f"✓ {A}")
        await pilot.press("k")
        await shows(pilot, f"✓ {B}")
        await pilot.press("ctrl+p")
        await until(pilot, lambda: app.screen is not app.current_screen)
        await pilot.press(*"2 Live", "enter")
        await until(pilot, lambda: getattr(app.screen, "NUMBER", 0) == 2)
        assert app.selection.run == B

    drive(app, task)


def test_lds_is_shown_once_there_is_a_validation(tmp_path: Path, engine: FakeEngine) -> None:
    run = FakeRun().write(tmp_path, A)
    engine.add(A, "succeeded", path=str(run.path), attributions=1)
    lines = [f"s{n},0,{n}.0,{n + (n == 3) * 1.5}" for n in range(6)]
    file = run.attributions / "a0001" / "validation.csv"

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "LDS")
        row = next(line for line in screen_lines(pilot.app) if "my run" in line)
        assert " – " in row[50:]
        file.write_text("\n".join(["subset,query,predicted,actual", *lines, ""]))
        await shows(pilot, " 0.94 ")
        file.write_text("damaged\n1\n")
        await until(pilot, lambda: "0.94" not in screen_text(pilot.app), "nothing to be read")

    drive(MagicApp(tmp_path), task)


def test_a_page_of_runs_is_few_bytes(
    tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = ("succeeded", "failed", "running", "paused", "queued", "cancelled")
    for n in range(90):
        run, state = f"20250102T03{n // 60:02d}{n % 60:02d}-ab{n:04d}", states[n % len(states)]
        name = f"{'abcdefghij'[n % 10] * (3 + n % 9)}-{n * 7919 % 1000}"
        facts = {"attributions": n % 4, "memory": n * 10**8, "reason": f"reason {n * 31 % 97}"}
        engine.add(run, state, name=name, path=str(tmp_path / run), phase=None, **facts)

    async def begin(pilot: Pilot[None]) -> None:
        await shows(pilot, "90 in")

    keys = ["pagedown"] * 6 + ["pageup"] * 6
    sizes = bytes_of(monkeypatch, MagicApp(tmp_path), begin, keys)
    assert len(sizes) == len(keys) and 200 < max(sizes) < 5000, sizes


def test_the_list_changes_while_it_is_on_screen(tmp_path: Path, engine: FakeEngine) -> None:
    engine.add(A, "queued", reason="waits for its turn")

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "waits for its turn")
        engine.turn(A, "running")
        await shows(pilot, "running")
        await pilot.press("p")
        await until(pilot, lambda: engine.of_kind("POST", "/pause"))
        await shows(pilot, f"sent pause to run {A}")

    drive(MagicApp(tmp_path), task)


def test_cancelling_and_removing_ask_first(tmp_path: Path, engine: FakeEngine) -> None:
    engine.add(A, "running", path=str(tmp_path))

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "running")
        await pilot.press("D")
        await shows(pilot, "cancel it first with x")
        await pilot.press("x")
        await shows(pilot, "It ends without saving")
        await pilot.press("n")
        await pilot.pause(0.1)
        assert engine.of_kind("POST", "/cancel") == []
        await pilot.press("x", "y")
        await until(pilot, lambda: engine.of_kind("POST", "/cancel"))
        engine.turn(A, "cancelled")
        await shows(pilot, "⊘")
        await pilot.press("D")
        await shows(pilot, "permanently deletes")
        await pilot.press("y")
        await until(pilot, lambda: engine.of_kind("DELETE", A))

    drive(MagicApp(tmp_path), task)


def test_filter_and_mark(tmp_path: Path, engine: FakeEngine) -> None:
    one = FakeRun(name="alpha").write(tmp_path, A)
    other = FakeRun(name="beta").write(tmp_path, B)
    for run, name in ((one, "alpha"), (other, "beta")):
        engine.add(run.id, "succeeded", path=str(run.path), name=name)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "alpha")
        await pilot.press("slash", *"alp")
        await until(pilot, lambda: "beta" not in screen_text(pilot.app), "filtered")
        await shows(pilot, "⏎ submit  esc cancel")
        await pilot.press("escape")
        await shows(pilot, "beta")
        await pilot.press("g", "space", "j")
        await shows(pilot, "beta (marked) → alpha")
        assert "name" in screen_text(pilot.app)

    drive(MagicApp(tmp_path), task)


def test_an_engine_that_dies_and_comes_back(
    finished: RunFolder, engine: FakeEngine, places: Path
) -> None:
    engine.add(finished.id, "succeeded", path=str(finished.path), attributions=1)
    again = FakeEngine(engine.path)
    again.add(finished.id, "failed", path=str(finished.path), reason="all wrong")

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "succeeded")
        stopped_note().touch()
        engine.stop()
        await shows(pilot, "the engine was stopped")
        assert finished.id in screen_text(pilot.app)
        again.start()
        try:
            await shows(pilot, "all wrong")
            await until(pilot, lambda: "was stopped" not in screen_text(pilot.app))
        finally:
            again.stop()
            engine.start()

    drive(MagicApp(finished.path.parent), task)


def test_no_name_controls_the_terminal(tmp_path: Path, engine: FakeEngine) -> None:
    for number, text in enumerate(TEXTS):
        clean = text.encode(errors="replace").decode()
        run_id = f"20250102T0304{number:02d}-abc123"
        engine.add(run_id, "failed", name=clean, model=clean, reason=clean, path=str(tmp_path))

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "markup")
        for _ in TEXTS:
            assert unsafe_in(pilot.app) == []
            await pilot.press("j")
        assert pilot.app.is_running

    drive(MagicApp(tmp_path), task, Terminal(200, 55))

"""Screens compared with stored pictures: ``make snapshots`` accepts a change.

Everything that could differ from one machine or moment to the next stands still: clock, time zone,
scores, sizes and places. What draws is pinned in ``constraints.txt``; another version draws
differently, so there the pictures are not compared.
"""

import asyncio
import importlib.metadata
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine.runs.run_folder import RunFolder
from magic_tui.dashboard.app import MagicApp
from tests.fake_engine import FakeEngine
from tests.tui.driving import screen_text, shows, until
from tests.tui.kept_run import write_kept

KEPT = Path(__file__).with_name("snapshots")
ACCEPT = "MAGIC_ACCEPT_SNAPSHOTS"
NOW = 1_790_000_000.0
SIZE = (80, 24)
HOME = Path("/home/you/runs")
"""The folder of the runs on screens that print it and read nothing there."""
PHASE = {
    "phase": "replay", "done": 30, "total": 60, "step": 29, "step_seconds": 0.5, "loss": None,
    "remaining_seconds": 15.0,
}  # fmt: skip
RUNNING = {"phase": PHASE, "memory": 3_400_000_000, "trajectory_bytes": 1_200_000_000}
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"


@dataclass(frozen=True)
class Snapshot:
    """A screen, the keys pressed on it, and the last that appears on it."""

    name: str
    screen: int
    last: str
    keys: tuple[str, ...] = ()


SNAPSHOTS = (
    Snapshot("welcome", 0, "own config"),
    Snapshot("runs", 1, "1.2 GB"),
    Snapshot("influences", 4, "not validated"),
    Snapshot("document", 5, "not validated"),
    Snapshot("help", 5, "esc closes", ("question_mark",)),
)


def pinned(name: str) -> str:
    """The version of a distribution that the pictures were made with."""
    (version,) = re.findall(rf"^{name}==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
    return str(version)


def drawn_by_others() -> bool:
    return any(importlib.metadata.version(n) != pinned(n) for n in ("textual", "rich"))


pytestmark = pytest.mark.skipif(drawn_by_others(), reason="not the pinned Textual and Rich")


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One moment, one time zone, one home for runs."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("LANG", "C.UTF-8")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def picture(app: MagicApp) -> str:
    """The screen as SVG, without the number that Rich makes up for each picture."""
    svg = app.export_screenshot(title="magic tui")
    lines = re.sub(r"terminal-\d+", "terminal", svg).splitlines()
    # One element a line: what differs can be read in a comparison.
    return "\n".join(line.rstrip() for line in lines).replace("><", ">\n<") + "\n"


def compare(name: str, now: str, accepted: Path, elsewhere: Path) -> None:
    """Fail and store the new picture if it differs from the accepted one."""
    if accepted.is_file() and accepted.read_text(encoding="utf-8") == now:
        return
    new = elsewhere / accepted.name
    new.write_text(now, encoding="utf-8")
    what = "looks different from" if accepted.is_file() else "was never accepted as"
    pytest.fail(
        f"{name} {what} {accepted}; now: {new}; accept it with: make snapshots", pytrace=False
    )


def app_of(snapshot: Snapshot, run: RunFolder, engine: FakeEngine) -> MagicApp:
    """The dashboard on a run with scores, or on runs that only the engine reports."""
    if snapshot.screen > 1:
        engine.add(run.id, "succeeded", path=str(run.path))
        return MagicApp(run.path.parent, run.id, snapshot.screen)
    if snapshot.screen == 1:
        for name, state, facts in (("older", "succeeded", {}), ("newer", "running", RUNNING)):
            run_id = f"20260921T140000-{name}"
            engine.add(run_id, state, path=str(HOME / run_id), name=name, **facts)
    return MagicApp(HOME, None, snapshot.screen)


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=lambda snapshot: snapshot.name)
def test_screens_look_as_accepted(snapshot: Snapshot, tmp_path: Path, engine: FakeEngine) -> None:
    app = app_of(snapshot, write_kept(tmp_path), engine)
    accepted = KEPT / f"{snapshot.name}.svg"
    seen = ""

    async def task(pilot: Pilot[None]) -> None:
        nonlocal seen
        app.select(document=4 if app.selection.run else None)
        if snapshot.keys:
            await pilot.pause(1.0)
            await pilot.press(*snapshot.keys)
        await shows(pilot, snapshot.last)
        if os.environ.get(ACCEPT):
            await pilot.pause(2.0)
            accepted.write_text(picture(app), encoding="utf-8")
        expected = accepted.read_text(encoding="utf-8") if accepted.is_file() else None
        try:
            await until(pilot, lambda: picture(app) == expected)
        except AssertionError:
            print(screen_text(app))
        seen = picture(app)

    async def look() -> None:
        async with app.run_test(size=SIZE) as pilot:
            await task(pilot)

    asyncio.run(look())
    compare(snapshot.name, seen, accepted, tmp_path)


def test_a_change_is_detected_and_stored(tmp_path: Path) -> None:
    accepted = KEPT / "welcome.svg"
    (tmp_path / "new").mkdir()
    changed = accepted.read_text(encoding="utf-8").replace("demo", "demi", 1)
    with pytest.raises(pytest.fail.Exception, match="make snapshots"):
        compare("welcome", changed, accepted, tmp_path / "new")
    assert (tmp_path / "new" / "welcome.svg").read_text(encoding="utf-8") == changed

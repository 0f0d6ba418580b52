"""Pictures of every screen on the demo: ``python -m tests.tui.pictures`` (``make pictures``).

The demo runs once, in a folder of its own that is kept, so that a second call takes seconds.
"""

import argparse
import asyncio
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from textual.pilot import Pilot

from engine.runs.config import as_plain
from engine.runs.listing import list_runs
from engine.runs.paths import state_folder
from engine.runs.read_config import read_config
from engine.runs.run_folder import RunFolder, new_run_id
from magic_tui.client.engine import connect
from magic_tui.dashboard.app import MagicApp
from magic_tui.runs.new_run_screen import NewRunScreen
from tests.tui.driving import screen_text

ROOT = Path(__file__).resolve().parents[2]
SIZE = (100, 30)
_PATIENCE = 60.0


@dataclass(frozen=True)
class Picture:
    """A screen, the keys pressed on it, and what it has to show before it is taken."""

    name: str
    screen: int
    until: str
    keys: tuple[str, ...] = field(default=())


PICTURES = (
    Picture("welcome", 0, "own config"),
    Picture("runs", 1, "succeeded"),
    Picture("live", 2, "history", ("left_square_bracket",) * 8),
    Picture("queries", 3, "no retraining", ("space",)),
    Picture("influences", 4, "%"),
    Picture("document", 5, "token"),
    Picture("why", 6, "document"),
    Picture("over-training", 7, "step"),
    Picture("trust", 8, "not validated"),
    Picture("help", 4, "esc closes", ("question_mark",)),
)


def main() -> None:
    """Run the demo if that has not been done, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/magic-pictures"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("MAGIC_STATE_DIR", "MAGIC_RUNTIME_DIR"):
        os.environ[name] = str(options.work / name.lower())
    # What the last call put into the basket is still in it.
    shutil.rmtree(state_folder() / "baskets", ignore_errors=True)
    config = _config(options.work)
    run = _demo(options.work / "runs", config)
    for picture in PICTURES:
        asyncio.run(_take(picture, run, options.out))
        print(options.out / f"{picture.name}.svg")
    asyncio.run(_take_new_run(config, run, options.out))
    connect(run.path.parent).stop()


def _config(work: Path) -> Path:
    """A copy of the demo's config at a short path, which is seen on the pictures."""
    work.mkdir(parents=True, exist_ok=True)
    samples = work / "sample_configs"
    if not samples.is_dir():
        shutil.copytree(ROOT / "sample_configs", samples)
    os.chdir(work)
    return samples / "demo.yaml"


def _demo(runs: Path, config: Path) -> RunFolder:
    """The finished demo."""
    complete = [run for run in list_runs(runs) if list(run.attributions.glob("*/complete.json"))]
    if complete:
        return complete[-1]
    print("running the demo once: two minutes or more")
    engine = connect(runs)
    view = engine.submit(new_run_id(), as_plain(read_config(config)))
    view = engine.wait(view["id"])
    assert view["state"] == "succeeded", view["reason"]
    return RunFolder(Path(view["path"]))


async def _take(picture: Picture, run: RunFolder, out: Path) -> None:
    app = MagicApp(run.path.parent, run.id, picture.screen)
    async with app.run_test(size=SIZE) as pilot:
        app.select(document=_top_document(run))
        await pilot.pause(2.0)
        await pilot.press(*picture.keys)
        await _until(pilot, picture.until)
        _save(app, out / f"{picture.name}.svg")


async def _take_new_run(config: Path, run: RunFolder, out: Path) -> None:
    app = MagicApp(run.path.parent, None, 0)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        await app.push_screen(NewRunScreen(config))
        await _until(pilot, "parameters")
        _save(app, out / "new-run.svg")
    print(out / "new-run.svg")


async def _until(pilot: Pilot[None], text: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while text not in screen_text(pilot.app):
        assert time.monotonic() < deadline, f"no {text!r} on\n{screen_text(pilot.app)}"
        await pilot.pause(0.1)
    await pilot.pause(0.5)


def _top_document(run: RunFolder) -> int:
    """The document that helps query 0 most."""
    from engine.scores.attribution import open_attribution

    return open_attribution(run).ranked(0, 1)[0].document


def _save(app: MagicApp, path: Path) -> None:
    path.write_text(app.export_screenshot(title="magic tui"), encoding="utf-8")


if __name__ == "__main__":
    main()

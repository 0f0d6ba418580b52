"""What is imported before the first frame, and what after it."""

import subprocess
import sys

import pytest

from engine.runs.run_folder import RunFolder
from magic_tui.dashboard.app import SCREENS
from magic_tui.dashboard.startup import LIBRARIES, preload

HEAVY = (
    *("torch", "numpy", "pyarrow", "zarr", "tokenizers", "httpx2", "pydantic", "yaml", "typer"),
    *("rich.markdown", "rich.syntax", "pygments", "tree_sitter", "textual.widgets._data_table"),
)

FIRST = f"""
import asyncio, sys
from pathlib import Path
from magic_tui.dashboard.app import MagicApp
from magic_tui.client import engine_process
from magic_tui.widgets.screen import MagicScreen

engine_process.ENGINE_COMMAND = [sys.executable, "-c", "import sys; sys.exit(7)"]

async def look():
    app = MagicApp(Path(sys.argv[1]), start=int(sys.argv[2]), run=sys.argv[3] or None)
    before = {{}}
    show = app._display
    def display(screen, renderable):
        show(screen, renderable)
        if isinstance(screen, MagicScreen):
            before.setdefault("heavy", [m for m in {HEAVY!r} if m in sys.modules])
    app._display = display
    async with app.run_test() as pilot:
        for _ in range(3000):
            if all(m in sys.modules for m in {LIBRARIES!r}):
                break
            await pilot.pause(0.01)
    missing = [m for m in {LIBRARIES!r} if m not in sys.modules]
    print(before["heavy"], missing, "torch" in sys.modules)

asyncio.run(look())
"""


@pytest.mark.parametrize(
    "start", [0, *(pytest.param(start, marks=pytest.mark.slow) for start in (1, 2))]
)
def test_nothing_slow_before_the_first_frame_and_all_of_it_after(
    finished: RunFolder, start: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST, str(finished.path.parent), str(start), finished.id],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "[] [] False", done.stderr


def test_preloading_ends_when_cancelled_and_survives_missing_modules() -> None:
    left = iter([False, False, True])
    preload(["no_such_module_at_all", "json"], lambda: next(left))
    assert next(left, "exhausted") == "exhausted"


def test_every_screen_is_preloaded() -> None:
    preload([place.split(":")[0] for place in SCREENS.values()], lambda: False)
    assert all(place.split(":")[0] in sys.modules for place in SCREENS.values())

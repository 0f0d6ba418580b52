"""A store too large to read as a whole: only what is on screen is read, and little is written."""

from pathlib import Path

import pytest

from engine.runs import score_store, tables
from engine.runs.arrays import read
from engine.scores import texts as texts_module
from magic_tui.dashboard.app import MagicApp
from magic_tui.explore.score_list import ScoreList
from tests.tui.driving import drive, shows, until
from tests.tui.huge_store import NEEDLE, RUN_ID, write_huge

DOCUMENTS, TOKENS, QUERIES = 60_000, 512, 3


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("huge")
    write_huge(folder, DOCUMENTS, TOKENS, QUERIES)
    return folder


@pytest.mark.slow
def test_only_what_is_on_screen_is_read(huge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_read: list[int] = []
    groups: set[int] = set()
    looked_up = texts_module.DocumentTexts._group

    def counting(array, selection, store):
        values = read(array, selection, store)
        if values.ndim == 2:
            rows_read.append(len(values))
        return values

    def group(self, number, cache=True):
        groups.add(number)
        return looked_up(self, number, cache)

    monkeypatch.setattr(tables, "read", counting)
    monkeypatch.setattr(score_store, "read", counting)
    monkeypatch.setattr(texts_module.DocumentTexts, "_group", group)

    async def task(pilot):
        app = pilot.app
        await shows(pilot, "60,000 documents")
        await shows(pilot, "strongest token")
        ranks = app.screen.query_one(ScoreList)
        await until(
            pilot, lambda: None not in map(ranks.snippet_of, ranks.visible_documents()), "texts"
        )
        assert len(groups) <= 3 * ranks.size.height
        await pilot.press("G")
        assert ranks.cursor == DOCUMENTS - 1
        await shows(pilot, "to the cursor 100 %")
        await pilot.press("g", "slash", *NEEDLE, "enter")
        await shows(pilot, f"with “{NEEDLE}”: 2 documents")
        await pilot.press("escape", "enter")
        await shows(pilot, "scale: this document")
        await pilot.press("6")
        await shows(pilot, "most helpful documents")
        # A document lies within one chunk of rows; nothing reads all of them.
        assert max(rows_read) <= 2 * 1024

    drive(MagicApp(huge, RUN_ID, 4), task)

"""What is in the basket outlives the dashboard."""

import json
from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine.runs.paths import state_folder
from engine.runs.run_folder import RunFolder
from magic_tui.dashboard.app import MagicApp
from magic_tui.queries.basket import LARGEST_BYTES, Basket, load_basket, save_basket
from magic_tui.queries.candidates import Candidate
from tests.cli.fake_run import FakeRun
from tests.tui.driving import drive, screen_text, shows, until
from tests.tui.kept_run import HOSTILE, write_kept


def basket_of(*candidates: Candidate) -> Basket:
    basket = Basket()
    for candidate in candidates:
        basket.add(candidate)
    return basket


def file_of(run: str) -> Path:
    return state_folder() / "baskets" / f"{run}.json"


def test_a_basket_comes_back_as_it_was() -> None:
    texts = [Candidate(text * 2, prompt=text) for text in HOSTILE]
    basket = basket_of(*texts)
    basket.cycle_reduction()
    save_basket("r1", basket)
    again, problem = load_basket("r1")
    assert list(again) == texts and again.reduction == "mean" and problem is None
    other, problem = load_basket("r2")
    assert not len(other) and problem is None


def test_an_empty_basket_leaves_no_file() -> None:
    basket = basket_of(Candidate("one"))
    save_basket("r1", basket)
    assert file_of("r1").exists() and file_of("r1").stat().st_mode & 0o077 == 0o044
    basket.clear()
    save_basket("r1", basket)
    assert not list(file_of("r1").parent.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"null", b'{"reduction": "none"}', b"\xff\xfe", b"\0" * 100),
        b'{"reduction": "most", "texts": []}',
        b'{"reduction": ["none"], "texts": []}',
        b'{"reduction": "none", "texts": [{"text": 1, "prompt": ""}]}',
        b'{"reduction": "none", "texts": [{"text": "a", "prompt": "b"}]}',
        b'{"reduction": "none", "texts": 7}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_is_an_empty_basket_and_one_sentence(content: bytes) -> None:
    save_basket("r1", basket_of(Candidate("one")))
    file_of("r1").write_bytes(content)
    basket, problem = load_basket("r1")
    assert not len(basket) and problem is not None and str(file_of("r1")) in problem


def test_a_file_that_is_none_of_ours() -> None:
    save_basket("r1", basket_of(Candidate("one")))
    with file_of("r1").open("ab") as file:
        file.truncate(LARGEST_BYTES + 1)
    assert load_basket("r1")[1] is not None


def test_killed_and_reopened_it_shows_the_same(tmp_path: Path) -> None:
    first, second = write_kept(tmp_path), FakeRun().write(tmp_path, "20250103T030405-abc124")

    async def fill(pilot: Pilot[None]) -> None:
        await shows(pilot, "who sat on the mat?")
        await pilot.press("space", "space", "r")
        await until(pilot, lambda: "mean" in file_of(first.id).read_text())

    async def look(pilot: Pilot[None]) -> None:
        await shows(pilot, "the mean loss of 2 texts")
        app = pilot.app
        assert isinstance(app, MagicApp)
        app.select(run=second.id)
        await shows(pilot, "basket empty")
        app.select(run=first.id)
        await shows(pilot, "the mean loss of 2 texts")
        await pilot.press("x")
        await until(pilot, lambda: not file_of(first.id).exists())

    drive(MagicApp(tmp_path, first.id, 3), fill)
    drive(MagicApp(tmp_path, first.id, 3), look)


def test_a_damaged_basket_is_reported_and_replaced(finished: RunFolder) -> None:
    save_basket(finished.id, Basket())
    file_of(finished.id).write_text("{")

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "the basket starts empty")
        await pilot.press("space")
        await shows(pilot, "basket: 1 query")
        await until(pilot, lambda: json.loads(file_of(finished.id).read_text())["texts"])

    drive(MagicApp(finished.path.parent, finished.id, 3), task)


def test_without_a_folder_for_it_queries_still_run(finished: RunFolder) -> None:
    state_folder().chmod(0o755)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "so others may enter it")
        await pilot.press("space")
        await shows(pilot, "basket: 1 query")
        assert "Traceback" not in screen_text(pilot.app)

    drive(MagicApp(finished.path.parent, finished.id, 3), task)

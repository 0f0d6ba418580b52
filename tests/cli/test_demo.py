import json
from pathlib import Path

import pytest

from engine.runs.errors import UsageError
from engine.scores.attribution import open_attribution
from engine.scores.top import label_matches
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun
from tests.cli.test_run import succeed
from tests.fake_engine import FakeEngine


@pytest.fixture(autouse=True)
def _config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text("model: {path: m}\ndata: {path: d.jsonl}\n")
    monkeypatch.setattr("magic_tui.runs.demo_config", lambda: path)


def test_report_and_json(runs: Path, engine: FakeEngine, magic: Magic) -> None:
    engine.on_submit = lambda wanted: succeed(engine, wanted)
    result = magic("demo")
    assert result.exit_code == 0
    assert result.stdout.count("\nmost helpful\n") == 2
    assert "the most helpful document of query 0, token by token" in result.stdout
    assert "strongest tokens" in result.stdout
    assert "expected by chance" in result.stdout and "in all" in result.stdout
    assert "try next" in result.stdout
    facts = json.loads(magic("demo", "--json").stdout)
    assert [len(table["helpful"]) for table in facts["queries"]] == [5, 5]
    assert facts["own_book"][0]["label"] == "a"


def test_matches_are_counted_against_chance(runs: Path) -> None:
    books = ["a"] * 5 + ["b"] * 18
    fake = FakeRun(columns={"book": books}, query_columns={"book": ["a", "b"]})
    attribution = open_attribution(fake.write(runs))
    for match, label in zip(label_matches(attribution, "book", 6), "ab", strict=True):
        listed = [r.document for r in attribution.ranked(match.query, 6)]
        assert (match.label, match.listed) == (label, 6)
        assert match.matches == sum(books[d] == label for d in listed)
        assert match.chance == pytest.approx(6 * books.count(label) / 23)


def test_the_config_or_the_folders_searched(magic: Magic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    import magic_tui.runs

    root = Path(magic_tui.__file__).parent
    try:
        config = magic_tui.runs.demo_config()
    except UsageError as error:
        assert str(root / "sample_configs") in str(error)
    else:
        assert config in (
            root.parent / "sample_configs/demo.yaml",
            root / "sample_configs/demo.yaml",
        )

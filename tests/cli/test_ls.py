import json
from pathlib import Path

import pytest

from tests.cli.conftest import Magic
from tests.fake_engine import FakeEngine

OLD, NEW = "20250101T000000-aaaaaa", "20250102T000000-bbbbbb"


def test_no_runs(runs: Path, engine: FakeEngine, magic: Magic) -> None:
    result = magic("ls")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"no runs in {runs}; start one with: magic run CONFIG" in result.stderr
    facts = json.loads(magic("ls", "--json").stdout)
    assert (facts["runs"], facts["runs_dir"]) == ([], str(runs))


def test_facts_newest_first(engine: FakeEngine, magic: Magic) -> None:
    engine.add(OLD, "succeeded")
    engine.add(NEW, "interrupted", attributions=0)
    new, old = json.loads(magic("ls", "--json").stdout)["runs"]
    assert (new["id"], new["state"], new["attributions"]) == (NEW, "interrupted", 0)
    assert (old["state"], old["attributions"], old["documents"]) == ("succeeded", 1, 23)
    assert (old["steps"], old["total_steps"], old["model"]) == (12, 12, "/models/tiny")
    assert (old["trajectory_bytes"], old["scores_bytes"], old["problem"]) == (5000, 2000, None)
    assert 3 * 3600 <= old["age"] < 3 * 3600 + 60


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_nothing_is_clipped_and_names_are_harmless(
    engine: FakeEngine, magic: Magic, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    engine.add(OLD, "running", name="\x1b[31m[red]\u202eevil" + "x" * 100, steps=3)
    engine.add(NEW, "failed", reason="no such file \x1b]52;c;evil")
    monkeypatch.setenv("COLUMNS", str(width))
    lines = magic("ls").stdout.splitlines()
    assert all(len(line) <= width for line in lines)
    output = "\n".join(lines)
    assert "\x1b" not in output and "\u202e" not in output
    for fact in (OLD, NEW, "␛[31m", "running", "3/12", "5.0 kB", "23", "tiny", "no such file"):
        assert fact in output


def test_an_unreadable_run_does_not_hide_the_others(engine: FakeEngine, magic: Magic) -> None:
    engine.add(OLD, "succeeded")
    engine.add(NEW, "queued")
    engine.runs[NEW] |= {"state": "unreadable", "reason": "it has format version 99"}
    result = magic("ls")
    assert result.exit_code == 0
    assert "unreadable" in result.stdout and "it has format version 99" in result.stdout
    assert OLD in result.stdout
    (broken, _) = json.loads(magic("ls", "--json").stdout)["runs"]
    assert broken["problem"] == "it has format version 99"

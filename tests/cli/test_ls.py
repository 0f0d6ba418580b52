import json
from pathlib import Path

import pytest

from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun


def test_no_runs(runs: Path, magic: Magic) -> None:
    result = magic("ls")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "start one with: magic run CONFIG" in result.stderr
    assert json.loads(magic("ls", "--json").stdout)["runs"] == []


def test_facts_newest_first(runs: Path, magic: Magic) -> None:
    FakeRun().write(runs, "20250101T000000-aaaaaa")
    FakeRun(finished=False).write(runs, "20250102T000000-bbbbbb")
    new, old = json.loads(magic("ls", "--json").stdout)["runs"]
    assert (new["id"], new["state"], new["attributions"]) == (
        "20250102T000000-bbbbbb", "interrupted", 0,
    )  # fmt: skip
    assert (old["state"], old["attributions"], old["documents"]) == ("succeeded", 1, 23)
    assert (old["steps"], old["total_steps"], old["model"]) == (12, 12, "/models/tiny")
    assert old["trajectory_bytes"] == 5000 and old["scores_bytes"] > 1000
    assert 3 * 3600 <= old["age"] < 3 * 3600 + 60


def test_a_run_at_work_is_running(runs: Path, magic: Magic) -> None:
    run = FakeRun().write(runs)
    with run.lock():
        assert json.loads(magic("ls", "--json").stdout)["runs"][0]["state"] == "running"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_nothing_is_clipped_and_names_are_harmless(
    runs: Path, magic: Magic, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    FakeRun(name="\x1b[31m[red]\u202eevil" + "x" * 100).write(runs)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = magic("ls").stdout.splitlines()
    assert all(len(line) <= width for line in lines)
    output = "\n".join(lines)
    assert "\x1b" not in output and "\u202e" not in output
    assert "20250102T030405-abc123" in output and "␛[31m" in output
    for fact in ("5.0 kB", "23", "tiny"):
        assert fact in output


def test_an_unreadable_run_does_not_hide_the_others(runs: Path, magic: Magic) -> None:
    FakeRun().write(runs, "20250101T000000-aaaaaa")
    broken = FakeRun().write(runs, "20250102T000000-bbbbbb")
    broken.config_file.write_text("magic: {format_version: 99}\n")
    result = magic("ls")
    assert result.exit_code == 0
    assert "unreadable" in result.stdout and "has format version 99" in " ".join(
        result.stdout.split()
    )
    assert "20250101T000000-aaaaaa" in result.stdout

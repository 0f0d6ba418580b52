import json
from pathlib import Path

from tests.cli.conftest import Magic
from tests.cli.fake_engine import FakeEngine
from tests.cli.fake_run import FakeRun

RUN = "20250102T030405-abc123"


def removals(engine: FakeEngine) -> list[str]:
    return [asked[2]["what"] for asked in engine.asked if asked[0] == "DELETE"]


def test_it_needs_yes_without_a_terminal(runs: Path, engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded", path=str(FakeRun().write(runs).path))
    result = magic("rm", RUN)
    assert result.exit_code == 2 and "add --yes" in result.stderr
    assert f"remove run {RUN} and its scores (" in result.stderr and "kB)" in result.stderr
    assert removals(engine) == []


def test_the_engine_removes(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded")
    facts = json.loads(magic("rm", RUN, "--yes", "--json").stdout)
    assert (facts["run"], facts["freed_bytes"]) == (RUN, 7000)
    result = magic("rm", RUN, "--trajectory", "--yes")
    assert result.stdout == f"removed the trajectory of run {RUN}: 7.0 kB freed\n"
    assert removals(engine) == ["run", "trajectory"]


def test_a_run_at_work_is_refused(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "running")
    result = magic("rm", RUN, "--yes")
    assert result.exit_code == 2 and f"magic cancel {RUN}" in result.stderr


def test_the_run_must_be_named(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded")
    assert magic("rm", "--yes").exit_code == 2
    assert removals(engine) == []

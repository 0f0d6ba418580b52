import json
from pathlib import Path

from engine.runs.journal import JournalWriter
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun
from tests.fake_engine import FakeEngine

RUN = "20250102T030405-abc123"


def removals(engine: FakeEngine) -> list[str]:
    return [request[2]["what"] for request in engine.requests if request[0] == "DELETE"]


def test_it_needs_yes_without_a_terminal(runs: Path, engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded", path=str(FakeRun().write(runs).path))
    result = magic("rm", RUN)
    assert result.exit_code == 2 and "add --yes" in result.stderr
    assert f"remove run {RUN} and its scores (" in result.stderr and "kB)" in result.stderr
    assert removals(engine) == []


def test_losses_are_printed_before_removal(runs: Path, engine: FakeEngine, magic: Magic) -> None:
    run = FakeRun().write(runs)
    journal = JournalWriter(run.events_file)
    journal.append("replay_step", step=0, seconds=90.0)
    journal.append("retrain_step", step=0, done=4, seconds=7200.0)
    journal.close()
    run.retrainings_file.parent.mkdir()
    run.retrainings_file.write_text("{}\n{}\n")
    engine.add(RUN, "succeeded", path=str(run.path))
    said = magic("rm", RUN).stderr
    assert said.startswith("  trajectory: 5.0 kB, 12 trained steps, 0.6 s of computing\n")
    assert "  scores: 1 attribution, 1:30 of computing\n" in said
    assert "  validation: 2 retrainings, 2:00:00 of computing\n" in said
    said = magic("rm", RUN, "--trajectory").stderr
    assert "12 trained steps" in said and "attribution" not in said and "add --yes" in said
    facts = json.loads(magic("rm", RUN, "--yes", "--json").stdout)["lost"]
    assert (facts["trained_steps"], facts["attributions"], facts["retrainings"]) == (12, 1, 2)
    assert facts["validation_seconds"] == 7200.0 and facts["bytes"] > facts["trajectory_bytes"]


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

import json
from pathlib import Path

from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun


def test_it_needs_yes_without_a_terminal(runs: Path, magic: Magic) -> None:
    run = FakeRun().write(runs)
    result = magic("rm", run.id)
    assert result.exit_code == 2 and "add --yes" in result.stderr
    assert run.config_file.exists()


def test_everything_goes(runs: Path, magic: Magic) -> None:
    run = FakeRun().write(runs)
    result = magic("rm", run.id, "--yes", "--json")
    assert json.loads(result.stdout)["freed_bytes"] > 5000
    assert list(runs.iterdir()) == []


def test_the_trajectory_alone_leaves_scores_readable(runs: Path, magic: Magic) -> None:
    run = FakeRun().write(runs)
    result = magic("rm", run.id, "--trajectory", "--yes")
    assert "5.0 kB freed" in result.stdout
    assert not run.trajectory.exists() and not list(run.path.glob(".*removed"))
    assert magic("top", run.id).exit_code == 0


def test_a_run_at_work_is_refused(runs: Path, magic: Magic) -> None:
    run = FakeRun().write(runs)
    with run.lock():
        result = magic("rm", run.id, "--yes")
    assert result.exit_code == 1 and "is at work" in result.stderr
    assert run.trajectory.exists()


def test_the_run_must_be_named(runs: Path, magic: Magic) -> None:
    FakeRun().write(runs)
    assert magic("rm", "--yes").exit_code == 2
    assert magic("rm", "", "--yes").exit_code == 2
    assert len(list(runs.iterdir())) == 1

"""What is said of queries that were asked with a tolerance."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.evaluation.trust import read_trust
from engine.runs.checksummed import read_record, write_record
from engine.runs.history import read_history
from engine.runs.journal import JournalWriter
from engine.runs.run_folder import RunFolder
from engine.scores.attribution import open_attribution
from magic_tui.live.event_lines import story_lines
from magic_tui.runs.plan_lines import plan_lines
from magic_tui.text.numbers import subspace_text
from tests.cli.conftest import Magic
from tests.cli.fake_engine import FakeEngine
from tests.cli.fake_run import FakeRun

RUN = "20250102T030405-abc123"
SUBSPACE = {"tolerance": 0.1, "rank": 1, "inner_product": "euclidean", "outside": 0.0873}


@pytest.fixture
def fake(runs: Path) -> FakeRun:
    """A run of two queries that one direction stands for."""
    return FakeRun(query_columns={"outside": [0.0, 0.0873], "expected_error": [0.0, 0.0512]})


def write(fake: FakeRun, runs: Path) -> Path:
    run = fake.write(runs)
    record = run.attributions / "a0001" / "complete.json"
    write_record(record, {**(read_record(record) or {}), "subspace": SUBSPACE})
    return run.path


def test_the_share_and_the_error_stand_beside_the_scores(
    fake: FakeRun, runs: Path, magic: Magic
) -> None:
    write(fake, runs)
    said = "8.7 % of its gradient was not replayed: expect scores about 5.1 % off"
    assert said in magic("top", "--query", 1).stdout
    assert "all of its gradient was replayed" in magic("top", "--query", 0).stdout
    facts = json.loads(magic("top", "--query", 1, "--json").stdout)
    assert (facts["outside"], facts["expected_error"]) == (0.0873, 0.0512)


def test_nothing_is_said_of_queries_that_were_replayed(runs: Path, magic: Magic) -> None:
    FakeRun().write(runs)
    assert "gradient" not in magic("top").stdout
    assert "outside" not in json.loads(magic("top", "--json").stdout)


def test_status_says_it(fake: FakeRun, runs: Path, engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded", path=str(write(fake, runs)))
    said = " ".join(magic("status", RUN).stdout.split())
    assert (
        "a0001 2 queries from 1 direction: at most 8.7 % of a query's gradient left out (tolerance "
        "10 %)" in said
    )
    found = json.loads(magic("status", RUN, "--json").stdout)
    assert found["subspaces"] == {"a0001": {**SUBSPACE, "queries": 2}}


def test_status_of_a_run_without(runs: Path, engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded", path=str(FakeRun().write(runs).path))
    assert "direction" not in magic("status", RUN).stdout
    assert "subspaces" not in json.loads(magic("status", RUN, "--json").stdout)


def test_trust_no_longer_says_exact(fake: FakeRun, runs: Path) -> None:
    run = RunFolder(write(fake, runs))
    assert (
        "at most 8.7 % of a query's gradient left out"
        in read_trust(open_attribution(run)).verdict.reason
    )
    assert "exact derivatives" not in read_trust(open_attribution(run)).verdict.reason
    plain = RunFolder(FakeRun().write(runs / "plain").path)
    assert "exact derivatives" in read_trust(open_attribution(plain)).verdict.reason


@pytest.mark.parametrize("tolerance", ["0", "0.25"])
def test_it_is_asked_for(runs: Path, engine: FakeEngine, magic: Magic, tolerance: str) -> None:
    engine.add(RUN, "succeeded", path=str(FakeRun().write(runs).path))
    asked = ("attribute", RUN, "--text", "who sat?", "--tolerance", tolerance, "--detach")
    assert magic(*asked).exit_code == 0
    ((_, _, _, wanted),) = engine.of_kind("POST", "/attributions")
    assert wanted["asked"]["tolerance"] == float(tolerance)


@pytest.mark.parametrize("tolerance", ["-0.1", "1", "nan"])
def test_no_share_is_refused_in_a_sentence(magic: Magic, tolerance: str) -> None:
    refused = magic("attribute", RUN, "--text", "a", f"--tolerance={tolerance}")
    assert refused.exit_code == 2
    assert "give a share from 0 to less than 1" in refused.stderr


def test_the_story_counts_directions() -> None:
    found = {"event": "subspace", "queries": 12, **SUBSPACE, "rank": 5}
    passes = {"event": "pass", "number": 0, "passes": 1, "queries": [0, 1], "directions": True}
    told = " ".join(line.plain for event in (found, passes) for line in story_lines(event, 200))
    assert "12 queries from 5 directions: at most 8.7 %" in told
    assert "replay of 2 directions at once" in told
    assert subspace_text(SUBSPACE, 1).startswith("1 query from 1 direction:")


def test_directions_are_not_taken_for_queries(runs: Path) -> None:
    run = FakeRun().write(runs)
    journal = JournalWriter(run.events_file)
    journal.append("phase", phase="replay", total=1, attribution="a0001")
    journal.append("pass", number=0, passes=1, queries=[0, 1], directions=True, reason="")
    journal.append("replay_step", step=0, cotangent_norms=[7.0, 8.0], seconds=1.0)
    journal.close()
    assert read_history(run).passes[-1].are_directions
    norms = read_trust(open_attribution(run)).numerics.norms
    assert all(7.0 not in found and 8.0 not in found for found in norms.values())


def test_a_plan_says_that_passes_may_be_fewer() -> None:
    plan: dict[str, Any] = {
        "parameters": 1, "documents": 1, "rows": 1, "steps": 1, "queries": 9, "passes": 3,
        "queries_per_pass": 3, "schedules": [], "chosen": "all", "reason": "",
    }  # fmt: skip
    said = "at most 3 passes of replay, fewer if the trained model's query gradients are alike"
    assert said in " ".join(line.plain for line in plan_lines({**plan, "query_tolerance": 0.1}, 99))
    assert "at most" not in " ".join(line.plain for line in plan_lines(plan, 99))

"""The states of attributions and validations in ``ls``, ``status``, ``wait`` and ``watch``."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.runs.checksummed import read_record, write_record
from engine.runs.config import RunConfig
from engine.runs.request import AttributionRequest
from engine.runs.run_folder import RunFolder
from engine.runs.submission import submit_attribution
from engine.scores.run_records import attribution_list
from magic_tui.client.engine import is_finished, standing
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun
from tests.cli.test_verbs import later
from tests.fake_engine import FakeEngine, run_view

RUN = "20250102T030405-abc123"
WHY = "no file at /x/typo.jsonl; check the path"


@pytest.fixture
def two_attributions(engine: FakeEngine, runs: Path) -> FakeEngine:
    """A trained run whose second attribution failed."""
    run = FakeRun(queries=["who sat on the mat? " * 9, "wörld peace", "tea", "rain"]).write(runs)
    engine.add(RUN, "succeeded", path=str(run.path))
    submit_attribution(run, AttributionRequest(texts=("whom?",)))
    (run.path / "jobs" / "0001").rename(run.path / "jobs" / "0002")
    engine.ask(RUN, "failed", reason=WHY, exit_code=2)
    return engine


def test_ls_and_status_list_attributions(two_attributions: FakeEngine, magic: Magic) -> None:
    lines = magic("ls").stdout.splitlines()
    assert lines[0].startswith(f"✓ {RUN}") and "succeeded" in lines[0]
    assert lines[-1].startswith("  a0002 failed · a0001 4 queries: “who sat on the mat? who…”")
    assert len(lines) == 4 and all(len(line) <= 80 for line in lines)
    text = magic("status", RUN).stdout
    assert "state       succeeded\n" in text
    assert "a0001       4 queries: “who sat on the mat? who s…”" in text
    assert "a0002       failed, 1 query: “whom?”" in text
    assert f"job 2       attribution a0002: failed, {WHY}" in text
    assert "magic rm" not in text and all(len(line) <= 80 for line in text.splitlines())


def test_as_json(two_attributions: FakeEngine, magic: Magic) -> None:
    two_attributions.ask(RUN, "running", "validate")
    (listed,) = json.loads(magic("ls", "--json").stdout)["runs"]
    one = json.loads(magic("status", RUN, "--json").stdout)
    assert listed["attribution_list"] == one["attribution_list"]
    first, second = one["attribution_list"]
    assert [len(text) <= 60 for text in first.pop("texts")] == [True] * 3
    assert first == {
        "attribution": "a0001", "job": 1, "state": "succeeded", "reason": None, "queries": 4,
        "source": None, "validations": [{"job": 3, "state": "running", "reason": None}],
        "cut": {"queries": 0, "tokens": 0},
    }  # fmt: skip
    assert second == {
        "attribution": "a0002", "job": 2, "state": "failed", "reason": WHY, "queries": 1,
        "texts": ["whom?"], "source": None, "validations": [], "cut": None,
    }  # fmt: skip


def test_queries_of_a_request_are_listed_before_they_are_read(runs: Path) -> None:
    run = FakeRun(finished=False).write(runs)
    config: dict[str, Any] = {"queries": {"path": "/data/q.jsonl"}}
    values = {"name": "n", "model": {"path": "m"}, "data": {"path": "d"}, **config}
    run.write_config(RunConfig.model_validate(values), RUN, 1.0)
    first = {"path": "/data/other.jsonl"}
    for queries in (
        {"queries": first},
        {"queries": first},
        {"texts": ("a", "b"), "reduction": "mean"},
    ):
        submit_attribution(RunFolder(run.path), AttributionRequest.model_validate(queries))
    own = run.path / "jobs" / "0001" / "request.json"
    write_record(own, {**(read_record(own) or {}), "attribution_request": None, "work": "run"})
    view = run_view(RUN, "running", path=str(run.path))
    view["jobs"] += [
        {**view["jobs"][0], "number": n, "attribution": f"a000{n}", "work": "attribute"}
        for n in (2, 3)
    ]
    attributions = attribution_list(view)
    assert [(f["source"], f["queries"], f["texts"]) for f in attributions] == [
        ("/data/q.jsonl", None, []), ("/data/other.jsonl", None, []), (None, 1, ["a", "b"]),
    ]  # fmt: skip


def test_damaged_tables_hide_nothing(
    two_attributions: FakeEngine, runs: Path, magic: Magic
) -> None:
    (runs / RUN / "attributions" / "a0001" / "queries.parquet").write_bytes(b"x")
    first, _ = json.loads(magic("status", RUN, "--json").stdout)["attribution_list"]
    assert (first["attribution"], first["state"], first["queries"]) == ("a0001", "succeeded", None)


def test_an_unfinished_attribution_sets_the_state_in_lists(engine: FakeEngine) -> None:
    engine.add(RUN, "succeeded")
    assert is_finished(engine.ask(RUN, "failed", reason=WHY))
    assert standing(engine.runs[RUN]) == ("succeeded", None)
    engine.ask(RUN, "blocked", reason="the disk is full")
    assert standing(engine.runs[RUN]) == ("blocked", "the disk is full")
    assert not is_finished(engine.runs[RUN])


def test_wait_names_the_job_it_waited_for(two_attributions: FakeEngine, magic: Magic) -> None:
    # A job that failed before the call is reported; the training is not affected.
    result = magic("wait", RUN)
    assert result.exit_code == 2 and WHY in result.stderr
    assert "itself is trained and unchanged" in result.stderr
    assert "magic rm" not in result.stderr and "resume" not in result.stderr
    result = magic("wait", RUN, "--job", "1")
    assert (result.exit_code, result.stdout) == (0, f"run {RUN} succeeded\n")
    two_attributions.ask(RUN, "running")
    later(lambda: two_attributions.turn(RUN, "succeeded"))
    result = magic("wait", RUN)
    assert (result.exit_code, result.stdout) == (0, f"attribution a0003 of run {RUN} succeeded\n")


def test_watch_reports_a_failure_among_several_jobs(
    two_attributions: FakeEngine, magic: Magic
) -> None:
    two_attributions.ask(RUN, "running")
    two_attributions.ask(RUN, "running")

    def end() -> None:
        two_attributions.turn(RUN, "succeeded")
        jobs = two_attributions.runs[RUN]["jobs"]
        jobs[2] |= {"state": "failed", "reason": "no memory", "exit_code": 1}

    later(end)
    result = magic("watch", RUN)
    assert result.exit_code == 1 and "no memory" in result.stderr


@pytest.mark.parametrize(("verb", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_an_action_names_its_job(
    two_attributions: FakeEngine, magic: Magic, verb: str, state: str
) -> None:
    two_attributions.ask(RUN, "running")
    two_attributions.on_action = lambda view, verb: two_attributions.turn(RUN, state)
    result = magic(verb, RUN)
    assert (result.exit_code, result.stdout) == (
        0, f"attribution a0003 of run {RUN} is {state}\n"
    )  # fmt: skip


def test_a_failed_training_may_be_removed_only_if_nothing_was_trained(
    engine: FakeEngine, magic: Magic
) -> None:
    engine.add(RUN, "failed", steps=0, reason="no such key", exit_code=2)
    assert f"magic rm {RUN}" in magic("wait", RUN).stderr
    engine.add(RUN, "failed", steps=5, reason="no such key", exit_code=2)
    assert "magic rm" not in magic("wait", RUN).stderr

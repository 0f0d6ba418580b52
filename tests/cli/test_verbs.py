"""The verbs that read and control runs through an engine."""

import json
import re
import threading
import time
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from engine.runs.run_folder import RunFolder
from engine.runs.states import RunState
from magic_tui.client import engine_process
from magic_tui.client.engine import UNREADABLE
from magic_tui.text.states import SIGNS
from tests.cli.conftest import Magic
from tests.fake_engine import FakeEngine

RUN = "20250102T030405-abc123"
OTHER = "20250103T030405-abc123"


def later(action: Callable[[], object], seconds: float = 0.4) -> None:
    threading.Timer(seconds, action).start()


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_state_has_a_sign_of_its_own() -> None:
    assert set(SIGNS) == {*RunState, UNREADABLE}
    assert len({sign for sign, _ in SIGNS.values()}) == len(SIGNS)


def test_wait_ends_with_what_became_of_the_run(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "running")
    later(lambda: engine.turn(RUN, "succeeded"))
    result = magic("wait", "my run", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["state"] == "succeeded"
    for state, reason, code, expected in [
        ("failed", "no memory", 1, 1),
        ("failed", "no file", 2, 2),
        ("cancelled", None, None, 4),
        ("paused", None, None, 4),
    ]:
        engine.turn(RUN, state, reason, code)
        result = magic("wait", RUN)
        assert result.exit_code == expected
        assert (reason or state) in result.stderr


def test_wait_gives_up_after_the_time_given(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "running")
    began = time.monotonic()
    result = magic("wait", "--timeout", "0.3", "--json")
    assert result.exit_code == 4 and 0.3 <= time.monotonic() - began < 3
    assert f"run {RUN} is still running" in result.stderr
    facts = json.loads(result.stdout)
    assert (facts["run"], facts["state"], facts["error"]["exit_code"]) == (RUN, "running", 4)


@pytest.mark.parametrize(
    ("verb", "on_the_way", "state"),
    [("pause", "pausing", "paused"), ("cancel", "cancelling", "cancelled")],
)
def test_an_action_returns_when_the_state_has_changed(
    engine: FakeEngine, magic: Magic, verb: str, on_the_way: str, state: str
) -> None:
    def grant(view: object, action: str) -> None:
        assert action == verb
        engine.turn(RUN, on_the_way)
        later(lambda: engine.turn(RUN, state))

    engine.add(RUN, "running")
    engine.on_action = grant
    result = magic(verb, RUN)
    assert (result.exit_code, result.stdout) == (0, f"run {RUN} is {state}\n")


def test_a_run_that_ends_first_is_reported(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "running")
    engine.on_action = lambda view, verb: later(lambda: engine.turn(RUN, "succeeded"))
    result = magic("cancel")
    assert (result.exit_code, result.stdout) == (
        0, f"run {RUN} succeeded before it could be cancelled\n",
    )  # fmt: skip


def test_an_action_times_out(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "running")
    engine.on_action = lambda view, verb: engine.turn(RUN, "pausing")
    result = magic("pause", "--timeout", "0.3")
    assert result.exit_code == 4 and f"run {RUN} is still pausing" in result.stderr


def test_resume_waits_until_the_run_is_taken_up(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "paused")
    engine.on_action = lambda view, verb: later(lambda: engine.turn(RUN, "queued"))
    result = magic("resume", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["state"] == "queued"


def test_the_help_of_cancel_names_what_is_lost(magic: Magic) -> None:
    text = flat(magic("cancel", "--help").stdout)
    assert "Earlier checkpoints stay" in text
    assert "An incomplete attribution is removed and starts again" in text


def test_an_action_that_does_not_apply(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded")
    result = magic("pause", RUN)
    assert (result.exit_code, result.stderr) == (
        2, f"magic: run {RUN} is succeeded; there is nothing to pause\n",
    )  # fmt: skip


def test_status_of_one_run(engine: FakeEngine, magic: Magic) -> None:
    phase = {
        "phase": "train", "done": 5, "total": 12, "step": 4, "step_seconds": 0.5, "loss": 3.25,
        "remaining_seconds": 125.0,
    }  # fmt: skip
    engine.add(RUN, "running", phase=phase, memory=3 * 10**9, code=["t.py:T from /x"])
    text = magic("status", RUN).stdout
    for fact in (
        "▶ 20250102T030405-abc123  my run", "state       running",
        "training 5/12 · 2:05 left · 0.500 s/step · loss 3.2500 · at step 4",
        "runs code   t.py:T from /x", "trajectory  5.0 kB",
        "2.0 kB in 1 attribution", "3.0 GB at most", "on cpu",
    ):  # fmt: skip
        assert fact in text, fact
    assert all(len(line) <= 80 for line in text.splitlines())
    view = json.loads(magic("status", RUN, "--json").stdout)
    (listed,) = view.pop("attribution_list")
    assert (listed["attribution"], listed["job"], listed["state"]) == ("a0001", 1, "running")
    assert view == {"schema_version": 1, **engine.runs[RUN]}


def test_status_shows_the_provenance_of_a_run(
    engine: FakeEngine, magic: Magic, tmp_path: Path
) -> None:
    made_from = {
        "weights": {"model.w": "ab12"}, "data": "c" * 64,
        "model": {"files": {"config.json": "d" * 64}, "commit": "e" * 40, "code": {}},
        "libraries": {"torch": "2.11.0", "numpy": "2.0"},
    }  # fmt: skip
    RunFolder(tmp_path).write_prepared({"fingerprint": made_from})
    engine.add(RUN, "succeeded")
    engine.runs[RUN]["path"] = str(tmp_path)
    text = " ".join(magic("status", RUN).stdout.split())
    assert "made from weights " in text and "· data cccccccccccc ·" in text
    assert "commit eeeeeeeeeeee · torch 2.11.0" in text
    provenance = json.loads(magic("status", RUN, "--json").stdout)["made_from"]
    assert provenance["commit"] == "e" * 40 and provenance["libraries"] == made_from["libraries"]
    assert set(provenance) == {"weights", "data", "files", "commit", "libraries"}


def test_status_of_all_lists_what_is_not_finished(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "blocked", reason="0.3 GB are free, 1.0 GB are kept")
    engine.add(OTHER, "succeeded")
    engine.runs["broken"] = {
        **engine.add("20250104T030405-abc123", "queued"),
        "state": "unreadable",
    }
    text = magic("status").stdout
    assert f"! {RUN}" in text and "0.3 GB are free, 1.0 GB are kept" in text
    assert OTHER not in text
    assert "2 running, 1 queued" in text and "500 GB free; below 1.0 GB new jobs wait" in flat(text)
    assert "A, – used of 8.0 GB" in text
    facts = json.loads(magic("status", "--json").stdout)
    assert facts["engine"]["pid"] == 4242
    assert [run["id"] for run in facts["runs"]] == [RUN, "20250104T030405-abc123"]


def test_a_run_that_cannot_be_read(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "queued")
    broken = {"state": "unreadable", "reason": "its config is damaged", "job": None, "jobs": []}
    engine.runs[RUN] |= broken
    for verb in (["wait"], ["watch"], ["watch", "--jsonl"]):
        result = magic(*verb)
        assert result.exit_code == 1 and "magic: its config is damaged" in result.stderr, verb
    assert "unreadable: its config is damaged" in magic("status", RUN).stdout


def test_status_of_a_run_that_is_not_there(engine: FakeEngine, magic: Magic) -> None:
    result = magic("status", "nope", "--json")
    assert result.exit_code == 2 and "no run has the id 'nope'" in result.stderr


def test_logs_are_harmless(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded")
    assert magic("logs").stdout == "the first line\n␛[31mthe second\n"
    magic("logs", "-f")
    assert [action[2]["follow"] for action in engine.of_kind("GET", "/logs")] == ["false", "true"]


def test_watch_prints_events_as_json_lines(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "failed", reason="no memory", exit_code=1)
    engine.say(RUN, "started", pid=1)
    engine.say(RUN, "train_step", step=0, loss=float("nan"))
    result = magic("watch", "--jsonl")
    assert result.exit_code == 1 and "magic: no memory" in result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["started", "train_step"]
    assert lines[1]["loss"] is None


def test_watch_reports_a_resumed_attempt(engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded")
    step = {"loss": 1.0, "learning_rate": 0.1, "seconds": 0.1}
    engine.say(RUN, "started", pid=1)
    engine.say(RUN, "phase", phase="train", total=10, attribution=None)
    for number in range(4):
        engine.say(RUN, "train_step", step=number, **step)
    engine.say(RUN, "started", pid=2)
    engine.say(RUN, "phase", phase="train", total=10, attribution=None)
    engine.say(RUN, "resumed", phase="train", step=3, done=3)
    for number in range(3, 10):
        engine.say(RUN, "train_step", step=number, **step)
    engine.say(RUN, "finished", work="run")
    result = magic("watch")
    assert result.exit_code == 0 and result.stderr.count("✓ training") == 1
    assert re.search(r"✓ training +10 steps", result.stderr)
    assert "resumed at step 3" in result.stderr
    assert f"magic top {RUN}" in result.stderr


def test_engine_status_and_start(engine: FakeEngine, magic: Magic) -> None:
    assert json.loads(magic("engine", "start", "--json").stdout)["started_now"] is False
    assert magic("engine", "start").stdout == "engine is running already: process 4242\n"
    assert "process 4242, version 0.1.0, up 2 min" in magic("engine", "status").stdout


def test_without_an_engine(magic: Magic) -> None:
    result = magic("engine", "status")
    assert result.exit_code == 3 and "no engine is running" in result.stderr
    result = magic("engine", "stop", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["stopped"] is False
    assert not engine_process.stopped_note().exists()


def test_the_version_is_printed_installed_or_not(
    magic: Magic, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    wanted = f"magic {tomllib.loads(text)['project']['version']}\n"
    assert magic("--version").stdout == wanted

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("engine.runs.environment.version", missing)
    assert magic("--version").stdout == wanted

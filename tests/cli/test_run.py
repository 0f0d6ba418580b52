import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runs.api_schema import SubmitRun
from magic_tui.cli.options import Forced
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun, replay_events, training_events
from tests.fake_engine import FakeEngine

ROOT = Path(__file__).resolve().parents[2]
MAIN = """
import signal
import sys
# Background jobs of a shell inherit an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv.pop(1))
from magic_tui.cli.main import main
main()
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("model: {path: m}\ndata: {path: d.jsonl}\n")
    return path


@pytest.fixture
def good(engine: FakeEngine) -> FakeEngine:
    """An engine in which every run succeeds at once."""
    engine.on_submit = lambda wanted: succeed(engine, wanted)
    return engine


def succeed(engine: FakeEngine, wanted: SubmitRun) -> None:
    """Write a finished run of two books, and send its events."""
    fake = FakeRun(texts=[f"document {i} =cmd [red]" for i in range(23)])
    fake.query_columns = {"book": ["a", "b"]}
    fake.columns = {"book": ["a" if i % 2 else "b" for i in range(23)]}
    fake.write(Path(wanted.runs_dir), wanted.id)
    for event, facts in [*training_events(fake.steps), *replay_events(fake.steps)]:
        engine.say(wanted.id, event, **facts)
    engine.say(wanted.id, "finished", work="run")
    engine.turn(wanted.id, "succeeded")


def test_a_run_prints_phases_tables_and_next_commands(
    runs: Path, good: FakeEngine, magic: Magic, config: Path
) -> None:
    result = magic("run", config)
    assert result.exit_code == 0
    (run,) = runs.iterdir()
    assert f"run {run.name}; ctrl+c does not stop it" in result.stderr
    assert re.search(r"✓ training +12 steps .* loss 6\.0000 → 4\.9000", result.stderr)
    assert re.search(r"✓ measuring +2 queries", result.stderr)
    assert re.search(r"✓ replaying +12 steps .*last step reproduced bit for bit", result.stderr)
    assert result.stderr.count("bfloat16 makes scores unreliable") == 1
    assert "trajectory all: all states fit" in result.stderr
    assert result.stdout.count("most helpful") == 2
    assert f"magic attribute {run.name} --text" in result.stdout
    command = re.search(rf"magic (show {run.name} \d+ --query 0)", result.stdout)
    assert command is not None
    assert magic(*command[1].split()).exit_code == 0


@pytest.mark.usefixtures("good")
def test_plain_progress_is_a_line_every_ten_per_cent(
    runs: Path, magic: Magic, config: Path
) -> None:
    lines = magic("run", config).stderr.splitlines()
    training = [line.split() for line in lines if line.startswith("  training")]
    assert [line[1] for line in training] == [
        "17", "25", "33", "42", "50", "67", "75", "83", "92",
    ]  # fmt: skip
    assert all("loss" in line and "lr" in line for line in training)


def test_json_on_stdout_alone_and_the_engine_gets_the_whole_config(
    runs: Path, good: FakeEngine, magic: Magic, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/cache")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    result = magic("run", config, "--json", "--force", "dropout", "--force", "bfloat16")
    facts = json.loads(result.stdout)
    (run,) = runs.iterdir()
    assert facts == {
        "schema_version": 1, "run": run.name, "path": str(run), "attribution": "a0001",
    }  # fmt: skip
    assert "training" in result.stderr
    ((_, _, _, wanted),) = good.of_kind("POST", "/v1/runs")
    assert (wanted["id"], wanted["runs_dir"]) == (run.name, str(runs))
    assert wanted["config"]["force"] == ["dropout", "bfloat16"]
    assert wanted["config"]["model"]["path"] == "m"
    assert wanted["environment"]["HF_HOME"] == "/cache"
    assert wanted["environment"]["OMP_NUM_THREADS"] == "1"
    assert not {"HF_TOKEN", "PATH", "HOME"} & set(wanted["environment"])


@pytest.mark.usefixtures("good")
def test_the_next_commands_name_the_runs_folder_if_it_was_given(
    tmp_path: Path, magic: Magic, config: Path
) -> None:
    other = tmp_path / "my runs"
    result = magic("run", config, "--runs-dir", other)
    assert result.stdout.count(f"--runs-dir '{other}'") == 4


def test_a_wrong_config_is_refused_before_it_is_submitted(
    runs: Path, magic: Magic, config: Path
) -> None:
    config.write_text("model: {path: m}\ndate: {path: d.jsonl}\n")
    result = magic("run", config)
    assert result.exit_code == 2 and "did you mean data?" in result.stderr
    assert not runs.exists()


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("reason", "code", "sentence"),
    [
        (
            "data.path: no file x.jsonl; check the path", 2,
            r"magic: data\.path: no file x\.jsonl; check the path\n"
            r"  run \S+ was not trained and stays listed as failed; remove it with: magic rm \S+\n",
        ),
        (
            "killed by \x1b[31mSIGKILL", 1,
            r"magic: killed by ␛\[31mSIGKILL\n  see: magic logs (\S+); try again with: "
            r"magic resume \1\n",
        ),
    ],
)  # fmt: skip
def test_a_failed_run_gives_one_sentence_a_remedy_and_the_exit_code(
    engine: FakeEngine, magic: Magic, config: Path, reason: str, code: int, sentence: str
) -> None:
    def fail(wanted: SubmitRun) -> None:
        engine.runs[wanted.id]["steps"] = 0
        engine.turn(wanted.id, "failed", reason, code)

    engine.on_submit = fail
    result = magic("run", config, "--json")
    assert re.fullmatch(r"run \S+; ctrl\+c does not stop it\n" + sentence, result.stderr)
    assert result.exit_code == code
    facts = json.loads(result.stdout)
    assert facts["error"] == {"message": reason, "exit_code": code}
    assert (facts["run"], facts["state"]) == (next(iter(engine.runs)), "failed")


@pytest.mark.usefixtures("runs")
def test_detached_it_prints_the_id_alone(engine: FakeEngine, magic: Magic, config: Path) -> None:
    result = magic("run", config, "--detach")
    (run_id,) = engine.runs
    assert (result.exit_code, result.stdout) == (0, f"{run_id}\n")
    assert f"magic watch {run_id}" in result.stderr
    view = json.loads(magic("run", config, "--detach", "--json").stdout)
    assert view == {"schema_version": 1, **engine.runs[view["id"]]}


@pytest.mark.usefixtures("runs")
def test_another_seed_than_the_config_s(engine: FakeEngine, magic: Magic, config: Path) -> None:
    for seed in (0, 3):
        assert magic("run", config, "--seed", seed, "--detach").exit_code == 0
    magic("run", config, "--detach")
    wanted = [request[3]["config"] for request in engine.of_kind("POST", "/v1/runs")]
    assert [one.pop("seed") for one in wanted] == [0, 3, 0]
    assert wanted[0] == wanted[1] == wanted[2]
    assert magic("run", config, "--seed", "-1").exit_code == 2


@pytest.mark.usefixtures("runs", "good")
def test_a_note_names_the_code_of_a_model(magic: Magic, config: Path) -> None:
    config.write_text("model: {path: m, trust_remote_code: true}\ndata: {path: d.jsonl}\n")
    assert "runs code: the model's own from" in magic("run", config).stderr


def test_each_reason_to_wait_is_printed_once(
    runs: Path, engine: FakeEngine, magic: Magic, config: Path
) -> None:
    def wait(wanted: SubmitRun) -> None:
        engine.turn(wanted.id, "queued", "waits for its turn; 2 before it")
        engine.say(wanted.id, "warning", message="the disk is slow")

    engine.on_submit = wait
    process = start(config, runs, "run")
    wait_for(lambda: engine.of_kind("GET", "/events"))
    time.sleep(0.3)
    (run_id,) = engine.runs
    engine.turn(run_id, "blocked", "0.3 GB are free on the disk, 1.0 GB are kept")
    time.sleep(0.3)
    succeed(engine, SubmitRun.model_validate(engine.of_kind("POST", "/v1/runs")[0][3]))
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert re.findall(r"^  (queued|blocked) +(.*)$", errors, re.MULTILINE) == [
        ("queued", "waits for its turn; 2 before it"),
        ("blocked", "0.3 GB are free on the disk, 1.0 GB are kept"),
    ]
    assert errors.count("warning: the disk is slow") == 1


def start(config: Path, runs: Path, *more: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, str(ROOT), *more, str(config), "--runs-dir", str(runs)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_detaches_and_prints_the_command_to_return(
    runs: Path, engine: FakeEngine, config: Path, number: signal.Signals
) -> None:
    engine.on_submit = lambda wanted: engine.turn(wanted.id, "running")
    process = start(config, runs, "run", "--json")
    wait_for(lambda: engine.of_kind("GET", "/events"))
    time.sleep(0.2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    (run_id,) = engine.runs
    assert process.returncode == 130
    assert errors.endswith(f"magic: the run continues; follow it with: magic watch {run_id}\n")
    assert json.loads(output)["error"]["exit_code"] == 130
    assert {method for method, *_ in engine.requests} == {"GET", "POST"}
    assert [request[1] for request in engine.requests if request[0] == "POST"] == ["/v1/runs"]


def test_the_choices_of_force_are_those_of_the_config() -> None:
    from typing import get_args

    from engine.runs import config as run_config

    assert {str(name) for name in Forced} == set(get_args(run_config.Forced))

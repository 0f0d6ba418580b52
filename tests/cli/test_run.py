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

from magic_tui.cli.options import Forced
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun

ROOT = Path(__file__).resolve().parents[2]
MAIN = """
import signal
import sys
# Background jobs of a shell inherit an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv.pop(1))
import magic_tui.client.worker as worker
worker.WORKER_COMMAND = [sys.executable, sys.argv.pop(1)]
from magic_tui.cli.main import main
main()
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("model: {path: m}\ndata: {path: d.jsonl}\n")
    return path


@pytest.fixture(autouse=True)
def _good_worker(fake_worker: Callable[[str], None]) -> None:
    fake_worker("good")


def test_a_run_shows_its_phases_its_tables_and_what_to_try(
    runs: Path, magic: Magic, config: Path
) -> None:
    result = magic("run", config)
    assert result.exit_code == 0
    (run,) = runs.iterdir()
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


def test_plain_progress_is_a_line_every_ten_per_cent(
    runs: Path, magic: Magic, config: Path
) -> None:
    lines = magic("run", config).stderr.splitlines()
    training = [line.split() for line in lines if line.startswith("  training")]
    assert [line[1] for line in training] == [
        "17", "25", "33", "42", "50", "67", "75", "83", "92",
    ]  # fmt: skip
    assert all("loss" in line and "lr" in line for line in training)


def test_json_on_stdout_alone_and_the_worker_gets_its_arguments(
    runs: Path, magic: Magic, config: Path
) -> None:
    result = magic("run", config, "--json", "--force", "dropout", "--force", "bfloat16")
    facts = json.loads(result.stdout)
    (run,) = runs.iterdir()
    assert facts["schema_version"] == 1 and facts["run"] == run.name
    assert facts["path"] == str(run) and facts["attribution"] == "a0001"
    assert facts["argv"] == [
        *("run", "--config", str(config), "--runs", str(runs), "--id", run.name),
        *("--force", "dropout", "--force", "bfloat16"),
    ]
    assert "training" in result.stderr


def test_the_next_commands_name_the_runs_folder_if_it_was_given(
    tmp_path: Path, magic: Magic, config: Path
) -> None:
    other = tmp_path / "my runs"
    result = magic("run", config, "--runs-dir", other)
    assert result.stdout.count(f"--runs-dir '{other}'") == 4


def test_a_wrong_config_is_refused_before_a_worker_starts(
    runs: Path, magic: Magic, config: Path
) -> None:
    config.write_text("model: {path: m}\ndate: {path: d.jsonl}\n")
    result = magic("run", config)
    assert result.exit_code == 2 and "did you mean data?" in result.stderr
    assert not runs.exists()


@pytest.mark.parametrize(
    ("behaviour", "code", "sentence"),
    [
        ("refuse", 2, r"magic: data\.path: no file x\.jsonl; check the path\n"),
        ("crash", 1, r"  .*␛\[31mlibnoise\nmagic: the worker .* \(exit 7\); see (\S+)\n"),
        ("killed", 1, r"magic: .* \(SIGKILL, perhaps out of memory\); see (\S+)\n"),
    ],
)
def test_a_failed_worker_is_one_sentence_and_its_exit_code(
    runs: Path,
    magic: Magic,
    config: Path,
    fake_worker: Callable[[str], None],
    behaviour: str,
    code: int,
    sentence: str,
) -> None:
    fake_worker(behaviour)
    result = magic("run", config, "--json")
    match = re.fullmatch(sentence, result.stderr)
    assert match is not None
    assert result.exit_code == code
    assert json.loads(result.stdout)["error"]["exit_code"] == code
    if match.groups():
        log = Path(match[1])
        assert log.is_file()
        log.unlink()


def start(config: Path, runs: Path, tmp_path: Path, behaviour: str) -> subprocess.Popen[str]:
    script = str(Path(__file__).with_name("fake_worker.py"))
    arguments = ["run", str(config), "--runs-dir", str(runs), "--json"]
    environment = {
        **os.environ, "FAKE_WORKER": behaviour, "FAKE_WORKER_PID": str(tmp_path / "pid"),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, str(ROOT), script, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    return process


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_worker_once_and_says_what_was_kept(
    runs: Path, config: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(config, runs, tmp_path, "slow")
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    (run,) = runs.iterdir()
    assert process.returncode == 130
    assert re.search(rf"interrupted after \d+ of 100 training steps; run {run.name} keeps", errors)
    assert json.loads(output)["error"]["exit_code"] == 130
    assert '"signals":1' in (run / "events.jsonl").read_text()
    assert "Traceback" not in errors


def test_a_second_ctrl_c_ends_a_worker_that_does_not_listen(
    runs: Path, config: Path, tmp_path: Path
) -> None:
    process = start(config, runs, tmp_path, "stubborn")
    worker = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_attribute_asks_texts(runs: Path, magic: Magic) -> None:
    run = FakeRun().write(runs)
    facts = json.loads(magic("attribute", "my run", "--text", "a", "--text", "b", "--json").stdout)
    request = json.loads(facts["argv"][facts["argv"].index("--request") + 1])
    assert facts["argv"][:3] == ["attribute", "--run", str(run.path)]
    assert request == {
        "texts": ["a", "b"], "queries": None, "reduction": "none", "granularity": "token",
    }  # fmt: skip


def test_attribute_asks_a_file_and_follows_only_what_is_new(
    runs: Path, magic: Magic, tmp_path: Path
) -> None:
    FakeRun().write(runs)
    (tmp_path / "queries.jsonl").write_text("{}\n")
    result = magic(
        "attribute", "--queries", "queries.jsonl", "--text-column", "body", "--reduction", "none"
    )
    assert result.exit_code == 0
    assert "replaying" in result.stderr and "training" not in result.stderr
    assert "from a file" in result.stdout and "attribution a0002" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "what to ask? give --text TEXT, or --queries FILE"),
        (["--text", "a", "--queries", "f"], "what to ask?"),
        (["--text", "  "], "--text is empty"),
        (["--text", "a", "--text-column", "c"], "columns belong to --queries FILE"),
        (["--queries", "f", "--prompt-column", "p"], "go together"),
    ],
)
def test_attribute_refuses_unclear_questions(
    runs: Path, magic: Magic, arguments: list[str], sentence: str
) -> None:
    result = magic("attribute", *arguments)
    assert result.exit_code == 2 and sentence in result.stderr


def test_plan_shows_every_schedule_and_marks_the_chosen_one(magic: Magic, config: Path) -> None:
    result = magic("plan", config)
    assert re.search(r"✗ all +3\.0 GB +500 MB +30 s +1:20", result.stdout)
    assert "needs 3.0 GB of disk, 2.0 GB are free" in result.stdout
    assert re.search(r"▶ sqrt +200 MB +700 MB +30 s +2:00", result.stdout)
    assert "sqrt: the fastest that fits" in result.stdout
    assert "warning: eps_root is 0" in result.stdout
    facts = json.loads(magic("plan", config, "--json").stdout)
    assert facts["schema_version"] == 1 and facts["chosen"] == "sqrt" and "ok" not in facts


def test_what_can_be_forced_is_what_the_config_knows() -> None:
    from typing import get_args

    from engine.contract import config as run_config

    assert {str(name) for name in Forced} == set(get_args(run_config.Forced))

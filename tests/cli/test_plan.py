"""``magic plan``, and the process that it starts and stops."""

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

from engine.runs.run_history import RunHistory
from magic_tui.live.live_lines import usage_lines
from magic_tui.runs.plan_lines import plan_lines
from tests.cli.conftest import Magic
from tests.cli.fake_worker import PLAN

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


def test_every_checkpointing_is_listed_and_one_is_marked(magic: Magic, config: Path) -> None:
    result = magic("plan", config)
    assert re.search(r"✗ all +3\.0 GB +500 MB +30 s +1:20", result.stdout)
    assert "needs 3.0 GB of disk, 2.0 GB are free" in result.stdout
    assert re.search(r"▶ sqrt +200 MB +700 MB +30 s +2:00", result.stdout)
    assert "sqrt: the fastest that fits" in result.stdout
    assert "warning: eps_root is 0" in result.stdout
    facts = json.loads(magic("plan", config, "--json", "--force", "dropout").stdout)
    assert facts["schema_version"] == 1 and facts["chosen"] == "sqrt" and "ok" not in facts
    assert facts["argv"][-2:] == ["--force", "dropout"]


@pytest.mark.parametrize(
    ("frozen", "words"),
    [
        (None, "200 parameters ·"),
        (0, "200 parameters ·"),
        (5000, "200 parameters trained, 5,000 frozen ·"),
    ],
)
def test_frozen_parameters_are_counted(frozen: int | None, words: str) -> None:
    plan = {**PLAN, "parameters": 200} | ({} if frozen is None else {"frozen_parameters": frozen})
    assert next(plan_lines(plan, 80)).plain.startswith(words)


def test_a_gpu_has_memory_of_its_own() -> None:
    schedules = [{**option, "host_memory_bytes": 2_000_000_000} for option in PLAN["schedules"]]
    plan = {
        **PLAN, "device": "cuda", "schedules": schedules, "free_host_memory": 16_000_000_000,
        "prepare_seconds": 12.0, "micro_batch_reason": "4 of 16 rows at a time: it fits",
    }  # fmt: skip
    text = "\n".join(line.plain for line in plan_lines(plan, 80))
    assert re.search(r"trajectory +disk +memory +RAM +train +replay\n", text)
    assert re.search(r"▶ sqrt +200 MB +700 MB +2\.0 GB +30 s +2:00\n", text)
    assert "8.0 GB memory, 16 GB RAM\n" in text and "12 s to prepare" in text
    assert "micro-batches: 4 of 16 rows at a time: it fits" in text
    on_processor = "\n".join(line.plain for line in plan_lines(PLAN, 80))
    assert "RAM" not in on_processor and "peak of the process" in on_processor


def test_memory_is_shown_beside_the_prediction() -> None:
    history = RunHistory()
    history.add(
        {"event": "train_step", "step": 0, "loss": 1.0, "seconds": 1.0, "memory": 400_000_000}
    )
    [unknown] = usage_lines(history.at(), None, None, None, 120)
    assert "predicted" not in unknown.plain
    planned = {"checkpointing": "all", "reason": "it fits", "memory": 800_000_000}
    history.add({"event": "planned", **planned})
    [line] = usage_lines(history.at(), None, None, None, 120)
    assert "400 MB with Python, peak 400 MB · predicted 800 MB" in line.plain
    bar = line.plain.split()[1]
    assert bar.count("█") == bar.count("░") > 0


@pytest.mark.parametrize(
    ("behaviour", "code", "sentence"),
    [
        ("refuse", 2, r"magic: data\.path: no file x\.jsonl; check the path\n"),
        ("crash", 1, r"  .*␛\[31mlibnoise\nmagic: the worker .* \(exit 7\); see (\S+)\n"),
        ("killed", 1, r"magic: .* \(SIGKILL, perhaps out of memory\); see (\S+)\n"),
    ],
)
def test_a_failed_worker_is_one_sentence_and_its_exit_code(
    magic: Magic,
    config: Path,
    fake_worker: Callable[[str], None],
    behaviour: str,
    code: int,
    sentence: str,
) -> None:
    fake_worker(behaviour)
    result = magic("plan", config, "--json")
    match = re.fullmatch(sentence, result.stderr)
    assert match is not None
    assert result.exit_code == code
    assert json.loads(result.stdout)["error"]["exit_code"] == code
    if match.groups():
        log = Path(match[1])
        assert log.is_file()
        log.unlink()


def start(config: Path, tmp_path: Path, behaviour: str) -> "subprocess.Popen[str]":
    script = str(Path(__file__).with_name("fake_worker.py"))
    environment = {
        **os.environ, "FAKE_WORKER": behaviour, "FAKE_WORKER_PID": str(tmp_path / "pid"),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, str(ROOT), script, "plan", str(config), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    end = time.monotonic() + 20
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_worker(config: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(config, tmp_path, "slow")
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "magic: interrupted\n")
    assert json.loads(output)["error"]["exit_code"] == 130


def test_a_second_ctrl_c_kills_a_stubborn_worker(config: Path, tmp_path: Path) -> None:
    process = start(config, tmp_path, "stubborn")
    worker = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGINT)
    time.sleep(0.8)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)

"""Without stand-ins: the command line, an engine that starts automatically, ranks with torch."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from magic_tui.client import engine_process
from magic_tui.client.engine import connect_if_running
from tests.cli.conftest import Magic
from tests.crash.tiny import tiny_config, tiny_model

REAL_ENGINE = list(engine_process.ENGINE_COMMAND)


@pytest.fixture(autouse=True)
def _real_engine(places: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engine_process, "ENGINE_COMMAND", REAL_ENGINE)
    monkeypatch.setenv("MAGIC_DISK_FLOOR_GB", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    engine = connect_if_running()
    if engine is not None:
        for run in engine.runs():
            with contextlib.suppress(Exception):
                engine.act(run["id"], "cancel")
            engine.wait(run["id"], 30)
        engine.stop()


def test_a_run_its_scores_and_a_new_question(runs: Path, magic: Magic, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tiny_model(tmp_path / "model"))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    result = magic("run", "run.yaml")
    assert result.exit_code == 0, result.stderr
    (run,) = runs.iterdir()
    assert "✓ training   6 steps" in result.stderr
    assert "last step reproduced bit for bit" in result.stderr
    assert f"run {run.name}  attribution a0001" in result.stdout
    assert result.stdout.count("most helpful") == 2

    facts = json.loads(magic("attribute", "--text", "the dog sat by the sea", "--json").stdout)
    assert (facts["run"], facts["attribution"]) == (run.name, "a0002")
    top = json.loads(magic("top", "--attribution", "a0002", "--json").stdout)
    assert top["text"] == "the dog sat by the sea" and top["helpful"]

    view = json.loads(magic("status", "tiny", "--json").stdout)
    assert (view["state"], view["attributions"], view["steps"]) == ("succeeded", 2, 6)
    assert view["trajectory_bytes"] > 0 and view["memory"] > 0

    result = magic("validate", "--drop", "0.3", "--count", "3", "--metasmoothness", "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["attribution"], report["subsets"]) == ("a0002", 3)
    assert -1 <= report["lds"] <= 1 and -1 <= report["metasmoothness"] <= 1
    assert json.loads(magic("validate", "--count", "0", "--json").stdout)["lds"] == report["lds"]
    job = json.loads(magic("status", "tiny", "--json").stdout)["jobs"][-1]
    assert (job["work"], job["state"]) == ("validate", "succeeded")

    config["data"]["path"] = "nowhere.jsonl"
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
    result = magic("run", "wrong.yaml")
    assert result.exit_code == 2 and "data.path" in result.stderr
    assert magic("rm", run.name, "--trajectory", "--yes").exit_code == 0
    result = magic("attribute", run.name, "--text", "too late")
    assert result.exit_code != 0 and "trajectory" in result.stderr
    assert magic("top", run.name).exit_code == 0

"""``magic validate``: its request, its report and its exit code."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.evaluation.lds import spearman
from engine.runs.journal import JournalWriter
from engine.runs.run_folder import RunFolder
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun
from tests.fake_engine import FakeEngine

RUN = "20250102T030405-abc123"


def write_table(run: RunFolder, noise: float) -> Path:
    """20 random subsets and 4 single documents of both queries."""
    random, lines = np.random.default_rng(0), ["query,subset,kind,predicted,actual\n"]
    for subset in range(24):
        name = f"0.05-seed0-{subset}" if subset < 20 else f"document{subset}"
        kind = "drop 0.05" if subset < 20 else "leave-one-out"
        for query, predicted in enumerate(random.normal(size=2)):
            actual = predicted + noise * random.normal()
            lines.append(f"{query},{name},{kind},{predicted!r},{actual!r}\n")
    file = run.attributions / "a0001" / "validation.csv"
    file.write_text("".join(lines).replace("np.float64(", "").replace(")", ""))
    return file


@pytest.fixture
def run(runs: Path) -> RunFolder:
    return FakeRun().write(runs)


@pytest.fixture
def validated(run: RunFolder, engine: FakeEngine) -> FakeEngine:
    """An engine that validates immediately."""
    engine.add(RUN, "succeeded", path=str(run.path))

    def answer(_: object) -> None:
        write_table(run, 0.05)
        engine.say(RUN, "started", work="validate", job=2, attempt=1, pid=1, warnings=[])
        engine.say(RUN, "phase", phase="retrain", total=240, attribution="a0001")
        for number in range(24):
            facts = {"subset": f"s{number}", "documents": 1, "done": 10 * (number + 1)}
            engine.say(RUN, "retrained", **facts, kind="drop 0.05", seconds=5.0)
        engine.say(RUN, "finished", work="validate")
        engine.turn(RUN, "succeeded")

    engine.on_validate = answer
    return engine


def test_request_and_report(validated: FakeEngine, magic: Magic) -> None:
    options = ("--drop", "0.05", "--drop", "0.2", "--count", "30", "--seed", "4", "--jobs", "2")
    result = magic("validate", *options, "--leave-one-out", "4", "--drop-top", "3", "-a", "a0001")
    assert result.exit_code == 0
    ((_, _, _, wanted),) = validated.of_kind("POST", "/validations")
    assert wanted["attribution"] == "a0001"
    assert wanted["request"] == {
        "drop": [0.05, 0.2], "count": 30, "seed": 4, "leave_one_out": 4, "drop_top": [3],
        "metasmoothness": False, "numerical_agreement": False, "baselines": False, "jobs": 2,
        "cluster": None, "cluster_options": {}, "keep_models": False,
    }  # fmt: skip
    assert "retraining" in result.stderr and "240 steps" in result.stderr
    assert "✓ trusted, LDS 0.9" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    (random,) = (line for line in lines if line[:3] == ["drop", "0.05", "20"])
    assert float(random[3]) > 0.9 and random[5] == "to"
    of_queries = [line[:4] for line in lines if line[1:3] == ["drop", "0.05"]]
    assert of_queries == [["0", "drop", "0.05", "20"], ["1", "drop", "0.05", "20"]]
    assert "spread: standard deviation of actual" in result.stdout


def test_json_and_the_threshold(validated: FakeEngine, magic: Magic) -> None:
    good = magic("validate", "--threshold", "0.8", "--json")
    assert good.exit_code == 0
    facts = json.loads(good.stdout)
    assert facts["attribution"] == "a0001" and facts["subsets"] == 24
    assert facts["interval"][0] <= facts["lds"] <= facts["interval"][1]
    assert [kind["subsets"] for kind in facts["kinds"]] == [20, 4]
    assert [query["query"] for query in facts["queries"]] == [0, 1]
    kinds = facts["queries"][0]["kinds"]
    assert [(k["kind"], k["subsets"]) for k in kinds] == [("drop 0.05", 20), ("leave-one-out", 4)]
    assert all(0 < kind["error"] < kind["spread"] for kind in (*kinds, *facts["kinds"]))
    assert (facts["lds_kind"], facts["ranked"]) == ("drop 0.05", ["drop 0.05"])
    assert facts["lds"] == facts["kinds"][0]["lds"]
    assert facts["verdict"]["symbol"] == "✓" and facts["file"].endswith("validation.csv")
    poor = magic("validate", "--threshold", "0.9999")
    assert poor.exit_code == 5 and "under the threshold 0.9999" in poor.stderr
    assert "✓ trusted" in poor.stdout
    facts = json.loads(magic("validate", "--threshold", "0.9999", "--json").stdout)
    assert facts["error"]["exit_code"] == 5 and facts["lds"] > 0.9


def test_count_0_reports_without_an_engine(run: RunFolder, magic: Magic) -> None:
    write_table(run, 9.0)
    result = magic("validate", "--count", "0", "--threshold", "0.8")
    assert result.exit_code == 5 and "✗ don't trust" in result.stdout
    (run.attributions / "a0001" / "validation.csv").unlink()
    nothing = magic("validate", "--count", "0", "--threshold", "0.8")
    assert nothing.exit_code == 5 and "not validated" in nothing.stdout
    assert "no LDS is known, under the threshold 0.8" in nothing.stderr


def test_every_requested_share_must_reach_the_threshold(run: RunFolder, magic: Magic) -> None:
    file = write_table(run, 0.05)
    # A second share with reversed predictions: the mean over both shares would be near 0.
    rows = [f"{q},0.2-{n},drop 0.2,{n}.0,{-n}.0\n" for n in range(8) for q in (0, 1)]
    file.write_text(file.read_text() + "".join(rows))
    both = magic("validate", "--count", "0", "--threshold", "0.5")
    assert both.exit_code == 5
    assert "the LDS at 20 % is -1.000, under the threshold 0.5" in both.stderr
    assert "✗ don't trust, LDS -1.00 at 20 %" in both.stdout
    output = magic("validate", "--count", "0", "--threshold", "0.5", "--drop", "0.05")
    assert output.exit_code == 0
    unknown = magic("validate", "--count", "0", "--threshold", "0.5", "--drop", "0.1", "--json")
    assert unknown.exit_code == 5
    facts = json.loads(unknown.stdout)
    assert "no LDS at 10 % is known" in facts["error"]["message"]
    assert (facts["lds"], facts["lds_kind"]) == (-1.0, "drop 0.2")


def test_baselines_on_the_same_subsets(run: RunFolder, magic: Magic) -> None:
    file = write_table(run, 0.05)
    journal = JournalWriter(make_parent(run.retrainings_file))
    random = np.random.default_rng(1)
    left_out = {f"0.05-seed0-{n}": random.choice(23, 3, replace=False).tolist() for n in range(20)}
    for name, documents in left_out.items():
        journal.append("retrained", subset=name, documents=documents)
    journal.close()
    scores = random.normal(size=(2, 23))
    folder = file.parent / "baselines"
    folder.mkdir()
    np.save(folder / "ours.npy", scores)
    np.save(folder / "nothing.npy", np.zeros((2, 23)))
    facts = json.loads(magic("validate", "--count", "0", "--json").stdout)
    lines = [line.split(",") for line in file.read_text().splitlines()[1:]]
    expected = []
    for query in range(2):
        own = [line for line in lines if line[0] == str(query) and line[1] in left_out]
        sums = np.array([-scores[query, left_out[line[1]]].sum() for line in own])
        expected.append(spearman(sums, np.array([float(line[4]) for line in own])))
    (ours,), (nothing,) = (facts["baselines"][name]["kinds"] for name in ("ours", "nothing"))
    assert ours["kind"] == "drop 0.05" and ours["lds"] == pytest.approx(np.mean(expected))
    assert nothing["lds"] is None
    text = magic("validate", "--count", "0").stdout
    rows = [line.split()[:2] for line in text.splitlines()]
    assert ["magic", "20"] in rows and ["ours", "20"] in rows and ["nothing", "20"] in rows
    (folder / "ours.npy").write_bytes(b"no array")
    damaged = magic("validate", "--count", "0")
    assert damaged.exit_code == 1 and "ours.npy cannot be read" in damaged.stderr


def make_parent(file: Path) -> Path:
    file.parent.mkdir(exist_ok=True)
    return file


def test_status_and_top_print_the_verdict(run: RunFolder, engine: FakeEngine, magic: Magic) -> None:
    engine.add(RUN, "succeeded", path=str(run.path))
    assert "○ not validated" in magic("top").stdout
    assert "○ not validated" in magic("status", RUN).stdout
    write_table(run, 9.0)
    for output in (magic("top").stdout, magic("status", RUN).stdout):
        text = " ".join(output.split())
        assert "✗ don't trust, LDS" in text and "raise eps_root (it is 1e-08" in text
    for verb in (("top",), ("status", RUN)):
        verdict = json.loads(magic(*verb, "--json").stdout)["verdict"]
        assert verdict["symbol"] == "✗" and verdict["reason"] and verdict["remedy"]
    (run.attributions / "a0001" / "validation.csv").write_text("query\nx\n")
    assert "! the validation cannot be read" in magic("top").stdout


def test_detached(validated: FakeEngine, magic: Magic) -> None:
    result = magic("validate", "--detach")
    assert (result.exit_code, result.stdout) == (0, f"{RUN}\n")
    assert "validation of a0001; follow it with: magic watch" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--drop", "1.5"], "drop"), (["--jobs", "0"], "jobs"), (["--count", "-1"], "count")],
)
def test_mistakes(validated: FakeEngine, magic: Magic, arguments: list[str], word: str) -> None:
    result = magic("validate", *arguments)
    assert result.exit_code == 2 and word in result.stderr
    assert not validated.of_kind("POST", "/validations")

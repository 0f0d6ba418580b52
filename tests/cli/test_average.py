"""``magic average``: means over runs that differ in their seed, and what it refuses."""

import csv
import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.runs.arrays import open_array
from engine.runs.journal import JournalWriter
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun, sample_texts

IDS = [f"20250102T03040{seed}-abc123" for seed in (1, 2, 3)]
Write = Callable[..., RunFolder]


@dataclass
class Subsets:
    """Predicted and actual φ of the shared subsets, (subset, query)."""

    predicted: np.ndarray
    actual: np.ndarray


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """By the sum of squared differences of ranks; there are no ties."""
    count = len(first)
    apart = first.argsort().argsort() - second.argsort().argsort()
    return 1 - 6 * float((apart**2).sum()) / (count * (count**2 - 1))


@pytest.fixture
def write(runs: Path) -> Write:
    """Write a run of a seed."""

    def written(seed: int, **fields: Any) -> RunFolder:
        config = {"seed": seed, **fields.pop("config", {})}
        return FakeRun(seed=seed, config=config, **fields).write(runs, IDS[seed - 1])

    return written


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds, to be copied."""
    folder = tmp_path_factory.mktemp("stored")
    for seed, run_id in enumerate(IDS, start=1):
        FakeRun(seed=seed, config={"seed": seed}).write(folder, run_id)
    return folder


@pytest.fixture
def three(stored: Path, runs: Path) -> list[RunFolder]:
    shutil.copytree(stored, runs)
    return [RunFolder(runs / run_id) for run_id in IDS]


def scores_of(runs: list[RunFolder]) -> np.ndarray:
    """(run, query, document)"""
    readers = [ScoreReader(run.attributions / "a0001") for run in runs]
    return np.array([[r.document_scores(q) for q in (0, 1)] for r in readers], np.float64)


def validate(run: RunFolder, seed: int, shared: int = 9) -> Subsets:
    """Write retrainings: subsets that all runs share, and one of the same name that they do not."""
    drawn, own = np.random.default_rng(7), np.random.default_rng([7, seed])
    left_out = {f"0.1-seed0-{n}": drawn.choice(23, 3, replace=False).tolist() for n in range(9)}
    # The order differs between runs; the last subset has other documents in each run.
    names = list(own.permutation(list(left_out)[:shared]))
    left_out["top3-a0001-query0"] = own.choice(23, 3, replace=False).tolist()
    run.retrainings_file.parent.mkdir()
    journal = JournalWriter(run.retrainings_file)
    lines = ["query,subset,kind,predicted,actual"]
    predicted, actual = np.zeros((2, 9, 2))
    for name in [*names, "top3-a0001-query0"]:
        journal.append("retrained", subset=str(name), documents=left_out[name])
        kind = "drop-top 3" if name.startswith("top") else "drop 0.1"
        for query, sums in enumerate(scores_of([run])[0][:, left_out[name]].sum(1)):
            values = query + 3 - sums, query + 3 - sums + 4e-4 * own.normal()
            lines.append(f"{query},{name},{kind},{values[0].item()!r},{values[1].item()!r}")
            if kind == "drop 0.1":
                place = list(left_out).index(name)
                predicted[place, query], actual[place, query] = values
    journal.close()
    (run.attributions / "a0001" / "validation.csv").write_text("\n".join(lines) + "\n")
    return Subsets(predicted, actual)


def test_means_errors_and_correlation_of_the_seeds(three: list[RunFolder], magic: Magic) -> None:
    scores = scores_of(three)
    result = magic("average", *IDS, "--query", 1, "-k", 4, "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert [(run["run"], run["seed"], run["attribution"]) for run in facts["runs"]] == [
        (run, seed, "a0001") for seed, run in enumerate(IDS, start=1)
    ]
    assert (facts["query"], facts["queries"], facts["documents"]) == (1, 2, 23)
    mean = (scores[0] + scores[1] + scores[2])[1] / 3
    error = np.sqrt(((scores[:, 1] - mean) ** 2).sum(0) / 2 / 3)
    for name, order in (("helpful", np.argsort(mean)), ("harmful", np.argsort(-mean))):
        assert [d["document"] for d in facts[name]] == order[:4].tolist()
        assert [d["score"] for d in facts[name]] == pytest.approx(mean[order[:4]])
        assert [d["standard_error"] for d in facts[name]] == pytest.approx(error[order[:4]])
    pairs = list(itertools.combinations(range(3), 2))
    for query in (0, 1):
        alike = sum(spearman(scores[a, query], scores[b, query]) for a, b in pairs) / 3
        assert facts["by_query"][query] == {
            "query": query, "correlation": pytest.approx(alike), "lds": None,
        }  # fmt: skip
    assert facts["lds"] is None and facts["identical"] is False and facts["file"] is None


def test_lds_of_the_mean_and_of_single_runs(three: list[RunFolder], magic: Magic) -> None:
    validations = [validate(run, seed) for seed, run in enumerate(three)]
    facts = json.loads(magic("average", *IDS, "--json").stdout)
    predicted = np.mean([one.predicted for one in validations], 0)
    actual = np.mean([one.actual for one in validations], 0)
    expected = [
        {
            "mean_scores": spearman(predicted[:, query], actual[:, query]),
            "own": np.mean(
                [spearman(f.predicted[:, query], f.actual[:, query]) for f in validations]
            ),
            "single": np.mean(
                [spearman(f.predicted[:, query], actual[:, query]) for f in validations]
            ),
        }
        for query in (0, 1)
    ]
    for query in (0, 1):
        (figures,) = facts["by_query"][query]["lds"].values()
        assert figures == pytest.approx(expected[query])
    (lds,) = facts["lds"].values()
    assert lds["subsets"] == 9
    for name in expected[0]:
        both = (expected[0][name] + expected[1][name]) / 2
        assert lds[name] == pytest.approx(both)
    low, high = lds["interval"]
    assert low <= lds["mean_scores"] <= high
    assert facts["runs"][0]["verdict"]["symbol"] in "✓!✗"


def test_report_and_csv(three: list[RunFolder], magic: Magic, tmp_path: Path) -> None:
    for seed, run in enumerate(three):
        validate(run, seed)
    before = {path: path.stat().st_mtime_ns for run in three for path in run.path.rglob("*")}
    result = magic("average", *IDS, "-k", 2, "--out", tmp_path / "mean")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "averaged over trainings that differ only in their seed" in text
    assert "over 9 subsets, mean scores, all queries: 95 % interval" in text
    assert len(re.findall(r"^run \S+  attribution a0001  seed [123]", result.stdout, re.M)) == 3
    assert len(re.findall(r" [+-]\d\.\d{3}e-\d\d  ± \d\.\de-\d\d  ", result.stdout)) == 4
    assert all(len(line) <= 80 for line in result.stdout.splitlines()[:-1])
    after = {path: path.stat().st_mtime_ns for run in three for path in run.path.rglob("*")}
    assert after == before
    file = tmp_path / "mean" / "documents.csv"
    assert result.stdout.splitlines()[-1] == str(file)
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    scores = scores_of(three)
    assert [float(row["score_1"]) for row in rows] == pytest.approx(scores[:, 1].mean(0))
    errors = scores[:, 0].std(0, ddof=1) / np.sqrt(3)
    assert [float(row["standard_error_0"]) for row in rows] == pytest.approx(errors)
    again = magic("average", *IDS, "--out", tmp_path / "mean")
    assert again.exit_code == 2 and "not an empty folder" in again.stderr


def test_reasons_for_a_missing_lds(three: list[RunFolder], magic: Magic) -> None:
    validate(three[0], 0)
    text = " ".join(magic("average", *IDS).stdout.split())
    assert f"no LDS of the mean: {IDS[1]}, {IDS[2]} not validated; see: magic validate" in text
    validate(three[1], 1, shared=2)
    result = magic("average", *IDS[:2])
    assert "share fewer than three validated subsets" in " ".join(result.stdout.split())


def test_identical_scores_are_reported(write: Write, magic: Magic) -> None:
    same = np.random.default_rng(0).normal(size=(23, 24))
    for seed in (1, 2):
        write(seed, change=lambda _: same)
    result = magic("average", *IDS[:2])
    assert "in this config the seed changes nothing" in " ".join(result.stdout.split())
    assert json.loads(magic("average", *IDS[:2], "--json").stdout)["identical"] is True


def test_trajectory_and_devices_may_differ(write: Write, magic: Magic) -> None:
    write(1, name="one")
    write(2, name="two", config={"trajectory": {"checkpointing": "log"}, "devices": {"ranks": 1}})
    assert magic("average", "one", "two").exit_code == 0


TEXTS = sample_texts(23)
CHANGED = [*TEXTS[:4], "rain on the mat", *TEXTS[5:]]


@pytest.mark.parametrize(
    ("fields", "difference"),
    [
        (
            {"config": {"training": {"optimizer": {"learning_rate": 0.5, "eps": 0.1}}}},
            r"training\.optimizer\.learning_rate is 0\.0001 in the first and 0\.5 in the second "
            r"\(1 more\)",
        ),
        ({"texts": CHANGED}, "the documents are not the same"),
        ({"texts": TEXTS[:22]}, "the documents are not the same"),
        (
            {"queries": ["who sat on the mat?", "tea"]},
            "the queries are not the same; name an attribution .*",
        ),
    ],
)
def test_other_differences_are_errors(
    write: Write, magic: Magic, fields: dict[str, Any], difference: str
) -> None:
    write(1)
    write(2, **fields)
    result = magic("average", *IDS[:2])
    assert result.exit_code == 2
    assert re.fullmatch(
        f"magic: runs {IDS[0]}.* and {IDS[1]}.* differ in more than their seed: {difference}\n",
        result.stderr,
    )


def test_rows_of_another_tokenizer_are_an_error(three: list[RunFolder], magic: Magic) -> None:
    open_array(three[1].rows_store, "input_ids", "r+")[3, 0] = 7
    result = magic("average", *IDS)
    assert result.exit_code == 2 and "input_ids of the rows are not the same" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([IDS[0]], "takes two runs or more; start another one with: magic run CONFIG --seed N"),
        ([IDS[0], IDS[1], IDS[0]], f"run {IDS[0]} is named twice"),
        ([IDS[0], "zzz"], "has the id, prefix or name 'zzz'"),
        (["my run", IDS[0]], "'my run' matches 3 runs"),
        ([*IDS, "--query", 2], "has no query 2"),
        ([*IDS, "--attribution", "a0009"], "no complete attribution 'a0009'"),
    ],
)
@pytest.mark.usefixtures("three")
def test_mistakes(magic: Magic, arguments: list[object], sentence: str) -> None:
    result = magic("average", *arguments, "--json")
    assert result.exit_code == 2 and sentence in result.stderr
    assert json.loads(result.stdout)["error"]["exit_code"] == 2


def test_two_runs_of_one_seed_are_an_error(write: Write, runs: Path, magic: Magic) -> None:
    write(1)
    FakeRun(config={"seed": 1}).write(runs, IDS[1])
    result = magic("average", *IDS[:2])
    assert result.exit_code == 2 and "both have seed 1: they are the same training" in result.stderr

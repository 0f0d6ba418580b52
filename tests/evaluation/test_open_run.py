"""``engine.open_run`` and ``engine.lds``: values against the command line, and no torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import engine
from engine.runs.errors import NotFoundError, UsageError
from engine.runs.run_folder import RunFolder
from magic_tui.cli.verbs import app
from tests.cli.fake_run import FakeRun

ID = "20250102T030405-abc123"
OTHER = "20250102T030406-abc123"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with a column of its own and six retrained subsets; tests only read it."""
    runs = tmp_path_factory.mktemp("runs")
    run = FakeRun(columns={"book": [f"b{i}" for i in range(23)]}).write(runs, ID)
    random, lines = np.random.default_rng(0), ["query,subset,kind,predicted,actual\n"]
    for query, subset in ((q, s) for q in (0, 1) for s in range(6)):
        predicted, noise = random.normal(), random.normal()
        lines.append(f"{query},s{subset},drop 0.1,{predicted!r},{predicted + 0.1 * noise!r}\n")
    (run.attributions / "a0001" / "validation.csv").write_text("".join(lines))
    return run


def cli(folder: RunFolder, *arguments: object) -> dict:
    words = [*map(str, arguments), "--runs-dir", str(folder.path.parent), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_values_are_those_of_the_command_line(folder: RunFolder) -> None:
    run = engine.open_run("my run", runs_dir=folder.path.parent)
    assert (run.id, run.attribution, run.attributions) == (ID, "a0001", ["a0001"])
    top = cli(folder, "top", "my run", "--query", 1, "-k", 23)
    assert run.scores.shape == (2, 23) and run.config.name == "my run"
    for each in (*top["helpful"], *top["harmful"]):
        assert run.scores[1, each["document"]] == each["score"]
    assert (run.queries[1].before, run.queries[1].after) == (top["loss_before"], top["loss_after"])
    printed = cli(folder, "show", "my run", 7, "--query", 1)
    tokens = run.tokens(7).to_pylist()
    assert len(tokens) == len(printed["tokens"]) > 0
    for ours, theirs, score in zip(tokens, printed["tokens"], run.token_scores(7)[1], strict=True):
        assert {**ours, "score": score} == theirs
    report = cli(folder, "validate", "my run", "--count", 0)
    assert (run.verdict.symbol, run.verdict.words) == (
        report["verdict"]["symbol"], report["verdict"]["words"],
    )  # fmt: skip
    table = run.validation
    assert table is not None and table.num_rows == 12
    predicted, actual = (
        np.array(table[name].to_pylist()).reshape(2, 6) for name in ("predicted", "actual")
    )
    lds = engine.lds(predicted, actual)
    assert lds.mean == report["lds"] and list(lds.interval) == report["interval"]
    (kind,) = report["kinds"]
    assert np.mean(lds.pearson) == kind["pearson"]


def test_documents_and_losses(folder: RunFolder) -> None:
    run = engine.open_run(folder.path)
    assert run.documents["book"].to_pylist() == [f"b{i}" for i in range(23)]
    losses = [e["loss"] for e in folder.events() if e["event"] == "train_step"]
    assert run.losses.tolist() == losses
    assert run.documents.to_pandas().loc[3, "text"] == run.documents["text"][3].as_py()


def test_runs_without_scores_and_wrong_names(folder: RunFolder, tmp_path: Path) -> None:
    FakeRun(finished=False).write(tmp_path, OTHER)
    run = engine.open_run(OTHER, runs_dir=tmp_path)
    assert run.attributions == [] and run.documents.num_rows == 23
    with pytest.raises(UsageError, match="has no complete attribution"):
        run.scores  # noqa: B018
    with pytest.raises(NotFoundError, match=r"no run in .* 'nothing'"):
        engine.open_run("nothing", runs_dir=tmp_path)
    with pytest.raises(NotFoundError, match="there is no folder"):
        engine.open_run(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no complete attribution 'a0009'"):
        engine.open_run(folder.path, attribution="a0009")
    with pytest.raises(UsageError, match="is not a run folder"):
        engine.open_run(tmp_path)
    with pytest.raises(UsageError, match="no document 23; there are 0 to 22"):
        engine.open_run(folder.path).tokens(23)


def test_document_granularity_has_no_token_scores(tmp_path: Path) -> None:
    run = engine.open_run(FakeRun(granularity="document").write(tmp_path).path)
    assert run.scores.shape == (2, 23) and not run.has_token_scores and run.validation is None
    with pytest.raises(UsageError, match="granularity: document"):
        run.token_scores(0)


def test_torch_is_not_loaded(folder: RunFolder) -> None:
    code = (
        "import sys, engine\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
        f"run = engine.open_run({str(folder.path)!r})\n"
        "run.documents, run.queries, run.scores, run.losses, run.validation, run.verdict\n"
        "run.tokens(0), run.token_scores(0), run.config\n"
        "engine.lds([1, 2, 3.0], [1, 3, 2.0]), engine.verdict(lds=0.9, subsets=9)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_lds_of_arrays() -> None:
    random = np.random.default_rng(0)
    predicted = random.normal(size=(3, 8))
    actual = predicted + random.normal(size=(3, 8))
    result = engine.lds(predicted, actual)
    for query in range(3):
        ranks = [values[query].argsort().argsort() for values in (predicted, actual)]
        assert result.per_query[query] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert result.mean == pytest.approx(result.per_query.mean())
    assert result.interval[0] < result.mean < result.interval[1]
    # An increasing function of the predictions changes nothing but Pearson's correlation.
    assert engine.lds(np.exp(predicted), actual).mean == result.mean
    # A value that is not finite removes its pair alone; a constant query has no LDS.
    actual[0, 2] = np.nan
    actual[1] = 5.0
    part = engine.lds(predicted, actual)
    finite = np.arange(8) != 2
    assert part.per_query[0] == engine.lds(predicted[0, finite], actual[0, finite]).mean
    assert np.isnan(part.per_query[1])
    assert part.mean == pytest.approx(part.per_query[[0, 2]].mean())
    assert np.isnan(engine.lds([1.0, 2.0], [1.0, 2.0]).mean)
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        engine.lds([1, 2], [1, 2, 3])

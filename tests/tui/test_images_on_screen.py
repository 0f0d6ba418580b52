"""A run of images on the screens and the command line: no tokens, and nothing that needs them."""

import json

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from engine.worker.main import main
from magic_tui.cli.verbs import app as cli
from magic_tui.dashboard.app import MagicApp
from magic_tui.queries.query_cost import query_cost
from tests.data.tiny_images import write_mnist
from tests.tui.driving import drive, screen_text, shows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of six images of 4 × 4 pixels, with two queries."""
    folder = tmp_path_factory.mktemp("images")
    write_mnist(folder / "mnist", train=6, size=4)
    path = str(folder / "mnist")
    config = {
        "name": "images",
        "task": "image_classification",
        "model": {"path": "cnn", "options": {"width": 1}},
        "data": {"path": path},
        "training": {"epochs": 2, "batch_size": 3, "optimizer": {"name": "sgd"}},
        "queries": {"path": path, "split": "test[:2]"},
        "trajectory": {"checkpointing": "all"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["--config", str(folder / "config.yaml"), "--runs", str(folder / "runs")]
    assert main(["run", *arguments, "--id", "r1"]) == 0
    return RunFolder(folder / "runs" / "r1")


def label_of(run: RunFolder, document: int) -> str:
    label = write_mnist(run.path.parent.parent / "again", train=6, size=4)["train"][1][document]
    return f"an image, label {label}, row {document}"


def test_every_screen_shows_what_there_is(run: RunFolder) -> None:
    scores = ScoreReader(run.attributions / "a0001").document_scores(0)
    strongest = int(np.abs(scores).argmax())

    async def task(pilot):
        await pilot.press("3")
        await shows(pilot, "an image, label")
        await pilot.press("t")
        await pilot.press("4")
        await shows(pilot, label_of(run, strongest))
        await pilot.press("m", "s", "Q", "Q", "v", "v", "j", "k")
        await pilot.press("5")
        await shows(pilot, "one example, step")
        await shows(pilot, "used as a whole")
        await pilot.press("l", "h", "n", "s", "m", "J", "K", "G", "g")
        assert "the document is one example and has one score" in screen_text(pilot.app)
        await pilot.press("6")
        await shows(pilot, "leaving document")
        await shows(pilot, "    an image, label")
        assert "overlap" not in screen_text(pilot.app)
        await pilot.press("l", "7")
        await shows(pilot, "so far")
        await pilot.press("8")
        await shows(pilot, "not validated")

    drive(MagicApp(run.path.parent, run.id, 1), task)


def test_the_command_line_shows_one_score(run: RunFolder) -> None:
    where = ["--runs-dir", str(run.path.parent)]
    facts = json.loads(CliRunner().invoke(cli, ["show", "2", "--json", *where]).stdout)
    scores = ScoreReader(run.attributions / "a0001").document_scores(0)
    assert facts["tokens"] == [] and facts["text"] == label_of(run, 2)
    assert facts["score"] == pytest.approx(float(scores[2]))
    result = CliRunner().invoke(cli, ["show", "2", *where])
    assert result.exit_code == 0 and label_of(run, 2) in result.stdout
    top = CliRunner().invoke(cli, ["top", "--label", "label", *where])
    assert top.exit_code == 0 and "an image, label" in top.stdout


def test_a_query_costs_one_score_a_document(run: RunFolder) -> None:
    cost = query_cost(run, 3)
    assert (cost.passes, cost.basis) == (1, "upper bound")
    # Scores of tokens would be of 6 × 1 positions; what is kept is compressed.
    assert cost.disk % 3 == 0 and cost.memory

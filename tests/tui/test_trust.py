"""The Trust screen, and reading validations and verdicts."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from textual.pilot import Pilot

from engine.evaluation.lds import spearman
from engine.evaluation.trust import read_trust, read_verdict
from engine.evaluation.validation import read_validation
from engine.evaluation.verdict import kind_text
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import RunError
from engine.runs.run_folder import RunFolder
from engine.scores.attribution import open_attribution
from magic_tui.dashboard.app import MagicApp
from tests.cli.fake_run import FakeRun
from tests.tui.driving import Terminal, drive, screen_text, shows
from tests.tui.kept_run import HOSTILE, assert_harmless, write_kept

HEAD = "query,subset,predicted,actual\n"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return write_kept(tmp_path / "runs")


def validated(run: RunFolder, noise: float, subsets: int = 20, outlier: str | None = None) -> Path:
    """Write retrainings of both queries, as far from the predictions as ``noise``."""
    random, lines = np.random.default_rng(0), [HEAD]
    for subset in range(subsets):
        for query in range(2):
            predicted = random.normal()
            actual = predicted + noise * random.normal() + 40 * (str(subset) == outlier)
            lines.append(f"{query},{subset},{predicted!r},{actual!r}\n")
    file = run.attributions / "a0001" / "validation.csv"
    file.write_text("".join(lines))
    return file


def app_of(run: RunFolder) -> MagicApp:
    return MagicApp(run.path.parent, run.id, start=8)


def test_spearman_is_the_correlation_of_mean_ranks() -> None:
    ties = np.array([1.0, 2.0, 2.0, 3.0])
    # By hand: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    expected = 4.5 / math.sqrt(4.5 * 5.0)
    assert spearman(ties, np.array([10.0, 20.0, 30.0, 40.0])) == pytest.approx(expected)
    assert spearman(ties, -ties) == pytest.approx(-1.0)
    assert spearman(np.exp(ties), ties**3) == pytest.approx(1.0)
    assert math.isnan(spearman(ties[:2], ties[:2])) and math.isnan(spearman(ties, ties * 0))


@pytest.mark.parametrize(
    ("noise", "subsets", "symbol", "words"),
    [(0.05, 20, "✓", "trusted"), (1.2, 40, "!", "doubtful"), (9.0, 20, "✗", "don't"),
     (0.05, 4, "!", "4 retrained")],
)  # fmt: skip
def test_verdicts(run: RunFolder, noise: float, subsets: int, symbol: str, words: str) -> None:
    assert read_verdict(run.path, None).words == "not validated"
    validated(run, noise, subsets)
    verdict = read_verdict(run.path, "a0001")
    assert verdict.symbol == symbol and words in verdict.words


def test_kinds_of_subsets_are_ranked_separately(run: RunFolder) -> None:
    lines = ["query,subset,kind,predicted,actual\n"]
    # The two shares are far apart; within the first one the order is reversed.
    for kind, base, turn in (("drop 0.1", 0.0, -1), ("drop 0.2", 100.0, 1)):
        for subset in range(6):
            lines.append(f"0,{kind} {subset},{kind},{base + subset!r},{base + turn * subset!r}\n")
    for document in range(9):
        lines.append(f"0,document{document},leave-one-out,{document!r},{document!r}\n")
    file = run.attributions / "a0001" / "validation.csv"
    file.write_text("".join(lines))
    validation = read_validation(file.parent)
    assert validation is not None
    assert validation.kinds == ["drop 0.1", "drop 0.2", "leave-one-out"]
    assert list(validation.ranked) == ["drop 0.1", "drop 0.2"]
    by_kind = {kind: (each.subsets, each.lds, *each.interval) for kind, each in
               validation.by_kind.items()}  # fmt: skip
    assert by_kind["drop 0.1"] == pytest.approx((6, -1.0, -1.0, -1.0))
    assert by_kind["drop 0.2"] == pytest.approx((6, 1.0, 1.0, 1.0))
    assert by_kind["leave-one-out"] == pytest.approx((9, 1.0, 1.0, 1.0))
    with pytest.raises(AssertionError, match="one kind"):
        validation.lds  # noqa: B018
    # The lowest LDS decides, not the mean over the two shares.
    assert validation.deciding is not None and validation.deciding[0] == "drop 0.1"
    verdict = read_verdict(run.path, None)
    assert (verdict.symbol, verdict.words) == ("✗", "don't trust, LDS -1.00 at 10 %")
    file.write_text("".join([lines[0], *lines[-9:]]))
    alone = read_validation(file.parent)
    assert alone is not None and alone.deciding is not None
    assert (alone.deciding[0], alone.deciding[1].lds) == ("leave-one-out", pytest.approx(1.0))
    assert read_verdict(run.path, None).words == "trusted, LDS 1.00 of single documents"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("drop 0.05", "at 5 %"),
        ("drop 0.001", "at 0.1 %"),
        ("leave-one-out", "of single documents"),
        ("drop-top 3", "without the 3 most helpful"),
        ("drop x", "of drop x"),
        ("", ""),
    ],
)
def test_kinds_in_words(kind: str, text: str) -> None:
    assert kind_text(kind) == text


def test_a_share_with_too_few_subsets_does_not_decide(run: RunFolder) -> None:
    lines = ["query,subset,kind,predicted,actual\n"]
    for kind, count, turn in (("drop 0.1", 4, -1), ("drop 0.2", 5, 1)):
        lines += [f"0,{kind} {n},{kind},{n}.0,{turn * n}.5\n" for n in range(count)]
    file = run.attributions / "a0001" / "validation.csv"
    file.write_text("".join(lines))
    assert "LDS 1.00 at 20 %" in read_verdict(run.path, None).words
    # If no share has enough subsets, the words name the largest number.
    file.write_text("".join(lines[:-2]))
    assert read_verdict(run.path, None).words == "4 retrained"


def test_error_and_spread(run: RunFolder) -> None:
    file = run.attributions / "a0001" / "validation.csv"
    actual = [0.0, 2.0, 4.0, 6.0]
    rows = [f"0,s{n},drop 0.1,{value + 1},{value}\n" for n, value in enumerate(actual)]
    file.write_text("".join(["query,subset,kind,predicted,actual\n", *rows]))
    validation = read_validation(file.parent)
    assert validation is not None
    (points,) = validation.points
    assert (points.error, points.spread) == pytest.approx((1.0, np.std(actual)))


def test_a_query_whose_phi_is_constant_is_doubtful(run: RunFolder) -> None:
    file = validated(run, 0.05)
    lines = [line if line[0] != "1" else f"{line.rpartition(',')[0]},0.5\n"
             for line in file.read_text().splitlines(keepends=True)]  # fmt: skip
    file.write_text("".join(lines))
    verdict = read_verdict(run.path, None)
    assert verdict.symbol == "!" and "φ of one query was the same" in verdict.reason


def test_a_step_that_was_not_reproduced_is_doubtful(tmp_path: Path) -> None:
    run = write_kept(tmp_path)
    record = run.attributions / "a0001" / "complete.json"
    write_record(record, {**(read_record(record) or {}), "reproduced": False})
    assert read_verdict(run.path, None).words == "not reproduced"


def test_indicators_count_without_retrainings(run: RunFolder) -> None:
    run.metasmoothness_file.parent.mkdir()
    measured = [[1.0, 5.0], [1.1, 5.0], [1.2, 4.9]]
    facts = {"metasmoothness": 0.97, "subset": "s", "measurements": {"a0001": measured}}
    run.metasmoothness_file.write_text(json.dumps(facts))
    assert read_verdict(run.path, "a0001").symbol == "○"
    opened = open_attribution(run, "a0001")
    # φ of one query changes equally in both halves, φ of the other only in the second.
    assert read_trust(opened).indicators.linearity == pytest.approx(1 - 0.1 / 0.3)
    measured[1] = [1.2, 5.1]
    run.metasmoothness_file.write_text(json.dumps(facts) + " ")
    assert "rough training" in read_verdict(run.path, "a0001").words
    agreed = {"micro_batch_size": 1, "correlation": [1.0, 0.3], "difference": [0.0, 2.0]}
    (run.attributions / "a0001" / "numerical_agreement.json").write_text(json.dumps(agreed))
    verdict = read_verdict(run.path, "a0001")
    assert verdict.symbol == "✗" and "rounding" in verdict.words and "0.30" in verdict.reason
    run.metasmoothness_file.write_text("{}")
    with pytest.raises(RunError, match=r"metasmoothness\.json"):
        read_verdict(run.path, "a0001")


def test_a_growing_file_and_lines_that_are_not_finite(run: RunFolder) -> None:
    file = validated(run, 0.05, 6)
    with file.open("a") as more:
        more.write("0,6,nan,1.0\n1,6,0.5,0.5\n0,7,0.2")
    validation = read_validation(file.parent)
    assert validation is not None
    assert [len(points.subsets) for points in validation.points] == [6, 7]
    assert (validation.subsets, validation.skipped) == (7, 1)
    low, high = validation.interval
    assert low <= validation.lds <= high
    file.write_text(HEAD)
    assert read_validation(file.parent) is None


@pytest.mark.parametrize("text", ["query,subset\n1,2\n", HEAD + "0,1,x,2\n", "\xff\n", "a,b\n\0\n"])
def test_a_damaged_file(run: RunFolder, text: str) -> None:
    file = run.attributions / "a0001" / "validation.csv"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=r"validation\.csv"):
        read_validation(file.parent)

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "! ")
        await shows(pilot, "validation.csv")
        assert "Traceback" not in screen_text(pilot.app)

    drive(app_of(run), task)


def test_not_validated(run: RunFolder) -> None:
    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "no retraining has been compared")
        text = screen_text(pilot.app)
        assert "○ not validated" in text and "float32" in text
        assert "1 at the last step, 1 at the first" in " ".join(text.split())
        assert "magic validate --count 0 --numerical-agreement replays" in " ".join(text.split())
        assert f"magic validate {run.id} -a a0001" in " ".join(text.split())
        await pilot.press("Q")
        await shows(pilot, "2 at the last step")

    drive(app_of(run), task)


def test_the_scatter_grows_and_marks_outliers(
    run: RunFolder, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magic_tui.trust.trust_screen._REFRESH_SECONDS", 0.2)
    validated(run, 0.05, outlier="13")

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "20 subsets")
        await shows(pilot, "predicted = actual")
        assert "✓ trusted" in screen_text(pilot.app) and "1 outlier" in screen_text(pilot.app)
        assert screen_text(pilot.app).count("◆") == 2
        await pilot.press("n")
        await shows(pilot, "subset 13: predicted")
        assert "an outlier" in screen_text(pilot.app)
        validated(run, 0.05, 30, outlier="13")
        await shows(pilot, "30 subsets")

    drive(app_of(run), task, terminal)


def test_hostile_subset_names(tmp_path: Path) -> None:
    run = write_kept(tmp_path / "runs", FakeRun())
    names = [each for each in HOSTILE if not set(each) & set("\n\r\0\ud800")]
    rows = [f'0,"{name}",{i},{i + (i == 0) * 50}\n' for i, name in enumerate(names)]
    file = run.attributions / "a0001" / "validation.csv"
    file.write_text(HEAD + "".join(rows), encoding="utf-8", newline="")

    async def task(pilot: Pilot[None]) -> None:
        await shows(pilot, "predicted = actual")
        for _ in names:
            await pilot.press("n")
            await shows(pilot, "subset ")
            assert_harmless(screen_text(pilot.app))

    drive(app_of(run), task)

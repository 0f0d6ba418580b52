import json
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun


def test_json_has_every_token_with_its_exact_score(finished: RunFolder, magic: Magic) -> None:
    result = magic("show", 5, "--query", 1, "--runs-dir", finished.path.parent, "--json")
    facts = json.loads(result.stdout)
    scores = ScoreReader(finished.attributions / "a0001")
    tokens = facts["tokens"]
    assert [t["position"] for t in tokens] == list(range(len(tokens)))
    assert {t["row"] for t in tokens} == {5}
    stored = scores.token_scores(1, slice(5, 6))[0, : len(tokens)]
    assert [t["score"] for t in tokens] == pytest.approx(stored.tolist(), rel=1e-12)
    assert facts["score"] == pytest.approx(float(scores.document_scores(1)[5]))
    assert facts["steps"] == [1, 7]
    assert tokens[-1]["target"] is False and tokens[0]["target"] is True
    assert "".join(t["text"] for t in tokens) == FakeRun().texts[5][: _shown_length(tokens)]


def _shown_length(tokens: list[dict]) -> int:
    return len("".join(t["text"] for t in tokens))


def test_the_page_names_rank_steps_and_the_strongest_tokens(
    finished: RunFolder, magic: Magic
) -> None:
    reader = ScoreReader(finished.attributions / "a0001")
    document = int(np.argsort(reader.document_scores(0))[1])
    strongest = float(np.abs(reader.token_scores(0, slice(document, document + 1))).max())
    result = magic("show", finished.id, document, "--runs-dir", finished.path.parent)
    assert result.exit_code == 0
    assert f"document {document} of 23" in result.stdout
    assert "2nd most helpful" in result.stdout
    assert f"trained on at steps {document // 4}, {document // 4 + 6}" in result.stdout
    assert f"{strongest:.3e}" in result.stdout
    assert "== -- helpful   ++ ## harmful" in result.stdout
    assert all(cell_len(line) <= 80 for line in result.stdout.splitlines())


def test_marks_stand_below_the_strongest_token(runs: Path, magic: Magic) -> None:
    def only_the_first(scores: np.ndarray) -> np.ndarray:
        return np.where(np.arange(scores.shape[1]) == 0, -1.0, 0.0) * np.ones_like(scores)

    FakeRun(texts=["the cat sat"] * 4, change=only_the_first).write(runs)
    lines = magic("show", 2).stdout.splitlines()
    index = lines.index("  the cat sat")
    assert lines[index + 1].strip() == "=" * len(lines[index + 1].strip())
    assert lines[index + 1].startswith("  =")


def test_colour_uses_256_colours_and_no_marks(
    finished: RunFolder, magic: Magic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLORTERM", raising=False)
    output = magic("show", 3, "--runs-dir", finished.path.parent).stdout
    assert "48;5;75m" in output or "48;5;208m" in output
    assert "38;2;" not in output and "helpful   ++" not in output


def test_no_color_wins_over_a_terminal(
    finished: RunFolder, magic: Magic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    output = magic("show", 3, "--runs-dir", finished.path.parent).stdout
    assert "38;5" not in output and "48;5" not in output
    assert "== -- helpful" in output


def test_hostile_tokens_are_replaced(runs: Path, magic: Magic) -> None:
    FakeRun(texts=["a\x1b[31m [red]x[/]", "b\u202ec\x07", "\x9b2J", "fine"]).write(runs)
    for document in range(3):
        output = magic("show", document).stdout
        assert set(output).isdisjoint(set("\x1b\x07\x9b\u202e"))
    assert "a␛[31m [red]x[/]" in magic("show", 0).stdout


def test_a_missing_tokenizer_leaves_ids(runs: Path, magic: Magic) -> None:
    run = FakeRun().write(runs)
    run.tokenizer_file.unlink()
    ids = json.loads(magic("show", 0, "--json").stdout)["tokens"]
    assert f"⟨{ids[0]['id']}⟩⟨{ids[1]['id']}⟩" in magic("show", 0).stdout


def test_document_scores_only_print_the_text_without_colour(runs: Path, magic: Magic) -> None:
    FakeRun(granularity="document").write(runs)
    result = magic("show", 1)
    assert result.exit_code == 0
    assert "stores document scores only" in result.stdout
    assert json.loads(magic("show", 1, "--json").stdout)["tokens"][0]["score"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["99"], "has no document 99; there are 0 to 22"),
        (["x"], "'x' is not a document's id"),
        (["a", "b", "3"], "expected [RUN] DOC, got 3 arguments"),
        (["nope", "3"], "no run in"),
    ],
)
def test_errors(finished: RunFolder, magic: Magic, arguments: list[str], sentence: str) -> None:
    result = magic("show", *arguments, "--runs-dir", finished.path.parent)
    assert result.exit_code == 2 and sentence in result.stderr


def test_the_document_is_required(magic: Magic) -> None:
    assert magic("show").exit_code == 2

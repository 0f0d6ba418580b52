import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun
from tests.cli.test_safe_text import HOSTILE

ROW = re.compile(r"^ +(\d+) +(\d+)  .*│.* ([+-]\d\.\d{3}e[+-]\d\d)  ")


def listed(output: str) -> list[tuple[int, int, str]]:
    matches = [ROW.match(line) for line in output.splitlines()]
    return [(int(m[1]), int(m[2]), m[3]) for m in matches if m]


def test_it_lists_the_extremes_of_the_stored_scores(finished: RunFolder, magic: Magic) -> None:
    result = magic("top", finished.id, "--runs-dir", finished.path.parent, "-k", 4)
    scores = ScoreReader(finished.attributions / "a0001").document_scores(0)
    order = np.argsort(scores)
    expected = [*order[:4], *order[::-1][:4]]
    assert result.exit_code == 0
    assert listed(result.stdout) == [
        (place % 4 + 1, document, f"{scores[document]:+.3e}")
        for place, document in enumerate(expected)
    ]
    share = np.abs(scores[expected]).sum() / np.abs(scores).sum()
    assert f"8 documents above carry {100 * share:.0f} % of the total" in result.stdout
    assert "loss 6.0000 → 3.0000 after training" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_json_is_the_only_output_on_stdout(finished: RunFolder, magic: Magic) -> None:
    result = magic("top", "--runs-dir", finished.path.parent, "--query", 1, "-k", 3, "--json")
    facts = json.loads(result.stdout)
    scores = ScoreReader(finished.attributions / "a0001").document_scores(1)
    assert facts["schema_version"] == 1
    assert (facts["query"], facts["queries"], facts["documents"]) == (1, 2, 23)
    assert facts["text"] == "wörld peace"
    assert (facts["loss_before"], facts["loss_after"]) == (7.0, 4.0)
    assert [d["document"] for d in facts["helpful"]] == np.argsort(scores)[:3].tolist()
    assert [d["document"] for d in facts["harmful"]] == np.argsort(-scores)[:3].tolist()
    assert facts["helpful"][0]["score"] == pytest.approx(float(scores.min()))


def test_harmful_only(finished: RunFolder, magic: Magic) -> None:
    result = magic("top", "--runs-dir", finished.path.parent, "--harmful", "-k", 2)
    assert "most harmful" in result.stdout and "most helpful" not in result.stdout
    assert all(score.startswith("+") for *_, score in listed(result.stdout))


def test_a_document_is_never_listed_under_the_wrong_sign(finished: RunFolder, magic: Magic) -> None:
    result = magic("top", "--runs-dir", finished.path.parent, "-k", 1000, "--json")
    facts = json.loads(result.stdout)
    assert all(d["score"] < 0 for d in facts["helpful"])
    assert all(d["score"] > 0 for d in facts["harmful"])
    assert facts["share_shown"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--query", 2], "attribution a0001 of run .* has no query 2; there is 0 to 1"),
        (["--query", -1], "has no query -1"),
        (["--attribution", "a0009"], "no complete attribution 'a0009' in .*; there are a0001"),
        (["--label", "nope"], "have no column 'nope'; there are id, text, source_row"),
        (["zzz"], "no run in .* has the id, prefix or name 'zzz'"),
    ],
)
def test_errors_name_what_is_missing(
    finished: RunFolder, magic: Magic, arguments: list[object], sentence: str
) -> None:
    result = magic("top", *arguments, "--runs-dir", finished.path.parent, "--json")
    assert result.exit_code == 2
    assert re.fullmatch(f"magic: .*{sentence}.*\n", result.stderr)
    error = json.loads(result.stdout)["error"]
    assert error["exit_code"] == 2 and f"magic: {error['message']}\n" == result.stderr


def test_a_run_without_attribution_names_the_command(runs: Path, magic: Magic) -> None:
    run = FakeRun(finished=False).write(runs)
    result = magic("top")
    assert result.exit_code == 2
    assert f'magic attribute {run.id} --text "…"' in result.stderr


def test_a_measurement_of_several_documents(runs: Path, magic: Magic) -> None:
    FakeRun(reduction="mean").write(runs)
    result = magic("top", "-k", 1)
    assert "query 0 · 1 in all  mean of 2 documents  measurement 6.5000 → 3.5000" in result.stdout
    assert "  who sat on the mat?\n  wörld peace\n" in result.stdout


def test_hostile_text_reaches_the_terminal_as_signs_and_markup_literally(
    runs: Path, magic: Magic
) -> None:
    texts = [f"{text} [red]no markup[/red] \\[b]" for text in HOSTILE if "\ud800" not in text]
    fake = FakeRun(texts=texts, queries=["\x1b[5mquery [/]", "\u202equery"], name="\x1b]0;x\x07")
    fake.columns = {"book": ["[bold]\x1b[1m"] * len(texts)}
    fake.write(runs)
    result = magic("top", "-k", 50, "--label", "book")
    assert result.exit_code == 0
    assert set(result.stdout).isdisjoint(set("\x1b\x07\x00\x7f\x9b\u202e\u2066\u200b\r"))
    assert "[red]no ma" in result.stdout and "[bold]␛[1m" in result.stdout
    assert "␛[5mquery [/]" in result.stdout


def test_a_damaged_chunk_is_an_error_and_not_a_table(runs: Path, magic: Magic) -> None:
    run = FakeRun().write(runs)
    store = run.attributions / "a0001" / "scores.zarr" / "document_scores"
    chunk = next(path for path in (store / "c" / "0").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    result = magic("top")
    assert result.exit_code == 1 and result.stdout == ""
    assert re.match(r"magic: .*document_scores is damaged", result.stderr)


def test_json_carries_the_label(runs: Path, magic: Magic) -> None:
    fake = FakeRun()
    fake.columns = {"book": [f"book\t{n % 3}" for n in range(23)]}
    fake.write(runs)
    facts = json.loads(magic("top", "--label", "book", "-k", 2, "--json").stdout)
    listed = [*facts["helpful"], *facts["harmful"]]
    assert [d["label"] for d in listed] == [f"book {d['document'] % 3}" for d in listed]
    assert "label" not in json.loads(magic("top", "--json").stdout)["helpful"][0]


def test_the_latest_attribution_with_the_query_is_used(runs: Path, magic: Magic) -> None:
    fake = FakeRun()
    run = fake.write(runs)
    fake.queries = ["only one"]
    fake.write_attribution(run, "a0002")
    for number, name in ((0, "a0002"), (1, "a0001")):
        assert json.loads(magic("top", "-q", number, "--json").stdout)["attribution"] == name
        assert f"attribution {name}" in magic("top", "-q", number).stdout
        assert f"attribution {name}" in magic("show", 3, "-q", number).stdout
    result = magic("top", "-q", 1, "--attribution", "a0002")
    assert result.exit_code == 2
    assert "a0002 of run" in result.stderr and "add --attribution a0001" in result.stderr
    result = magic("show", 3, "-q", 7)
    assert result.exit_code == 2 and "a0002 of run" in result.stderr
    (run.attributions / "a0001" / "complete.json").write_text("{")
    assert magic("top", "-q", 0).exit_code == 0 and magic("top", "-q", 1).exit_code == 2


def test_a_renamed_run_is_read_by_its_id_and_by_its_folder(
    finished: RunFolder, magic: Magic, tmp_path: Path
) -> None:
    shutil.copytree(finished.path, tmp_path / "elsewhere" / "renamed")
    for wanted in (finished.id, "renamed", "my run"):
        for verb in (["top", wanted], ["show", wanted, 0], ["export", wanted, "--out", wanted]):
            result = magic(*verb, "--runs-dir", tmp_path / "elsewhere", "--json")
            assert result.exit_code == 0, result.stderr
            assert json.loads(result.stdout)["run"] == finished.id

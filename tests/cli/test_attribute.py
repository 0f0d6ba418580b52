import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runs.run_folder import RunFolder
from tests.cli.conftest import Magic
from tests.cli.fake_run import FakeRun, replay_events
from tests.fake_engine import FakeEngine

RUN = "20250102T030405-abc123"


@pytest.fixture
def trained(runs: Path, engine: FakeEngine, fake_worker: Callable[[str], None]) -> FakeEngine:
    """An engine with a finished run whose new attributions are there at once."""
    fake = FakeRun()
    path = fake.write(runs).path
    engine.add(RUN, "succeeded", path=str(path))
    for _ in range(3):
        engine.say(RUN, "train_step", step=0, loss=1.0)

    def answer(_: object) -> None:
        if not (path / "attributions" / "a0002").exists():
            fake.write_attribution(RunFolder(path), "a0002")
        for event, facts in replay_events(fake.steps):
            engine.say(RUN, event, **facts)
        engine.turn(RUN, "succeeded")

    engine.on_attribute = answer
    return engine


def test_texts_are_submitted_and_only_new_scores_are_printed(
    trained: FakeEngine, magic: Magic
) -> None:
    result = magic("attribute", "my run", "--text", "a", "--text", "b")
    assert result.exit_code == 0
    ((_, _, _, wanted),) = trained.of_kind("POST", "/attributions")
    assert wanted["request"] == {
        "texts": ["a", "b"], "queries": None, "reduction": "none", "granularity": "token",
    }  # fmt: skip
    assert "replaying" in result.stderr and "training" not in result.stderr
    assert "attribution a0002" in result.stdout
    facts = json.loads(magic("attribute", "--text", "a", "--json").stdout)
    assert (facts["run"], facts["attribution"]) == (RUN, "a0002")


def test_prompts_go_with_their_texts(trained: FakeEngine, magic: Magic) -> None:
    arguments = ("attribute", "--prompt", "say it: ", "--text", "a", "--prompt", "", "--text", "b")
    assert magic(*arguments, "--detach").exit_code == 0
    ((_, _, _, wanted),) = trained.of_kind("POST", "/attributions")
    assert wanted["request"]["prompts"] == ["say it: ", ""]
    refused = magic("attribute", "--prompt", "p", "--text", "a", "--text", "b")
    assert refused.exit_code == 2 and "one --prompt for each --text" in refused.stderr


def test_query_data_is_sent_with_its_absolute_path(
    trained: FakeEngine, magic: Magic, tmp_path: Path
) -> None:
    (tmp_path / "queries.jsonl").write_text("{}\n")
    result = magic(
        *("attribute", "--queries", "queries.jsonl", "--text-column", "body"),
        *("--reduction", "mean", "--detach"),
    )
    assert (result.exit_code, result.stdout) == (0, f"{RUN}\n")
    assert "attribution a0002" in result.stderr
    ((_, _, _, wanted),) = trained.of_kind("POST", "/attributions")
    assert wanted["request"]["queries"] == {
        "path": str(tmp_path / "queries.jsonl"), "text_column": "body",
    }  # fmt: skip
    assert wanted["request"]["reduction"] == "mean"
    facts = json.loads(magic("attribute", "--text", "a", "--detach", "--json").stdout)
    assert facts["attribution"] == "a0002" and facts["jobs"][-1]["number"] == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no query: give --text TEXT or --queries FILE"),
        (["--text", "a", "--queries", "f"], "no query: give"),
        (["--text", "  "], "--text is empty"),
        (["--text", "a", "--text-column", "c"], "column options need --queries FILE"),
        (["--queries", "f", "--prompt-column", "p"], "go together"),
    ],
)
def test_ambiguous_requests_are_errors(
    runs: Path, magic: Magic, arguments: list[str], sentence: str
) -> None:
    result = magic("attribute", *arguments)
    assert result.exit_code == 2 and sentence in result.stderr


def test_a_rejected_request_creates_no_job(
    trained: FakeEngine, magic: Magic, fake_worker: Callable[[str], None]
) -> None:
    fake_worker("refuse")
    result = magic("attribute", "--queries", "typo.jsonl", "--json")
    assert result.exit_code == 2
    assert result.stderr == "magic: data.path: no file x.jsonl; check the path\n"
    assert trained.of_kind("POST", "/attributions") == []
    # If the check itself fails, the request is submitted.
    fake_worker("crash")
    assert magic("attribute", "--text", "a", "--detach").exit_code == 0
    assert len(trained.of_kind("POST", "/attributions")) == 1


def test_foreign_code_is_named_and_accepted_once(trained: FakeEngine, magic: Magic) -> None:
    trained.runs[RUN] = {**trained.runs[RUN], "code": ["t.py:T from /x"]}
    arguments = ("attribute", RUN, "--text", "a", "--detach")
    refused = magic(*arguments)
    assert refused.exit_code == 2 and "runs code: t.py:T from /x" in refused.stderr
    assert "--trust" in refused.stderr and not trained.of_kind("POST", "/attributions")
    assert magic(*arguments, "--trust").exit_code == 0 and trained.accepted == {RUN}
    again = magic(*arguments)
    assert again.exit_code == 0 and "runs code: t.py:T from /x" in again.stderr
    for verb in (["validate", RUN, "--count", "2", "--detach"], ["resume", RUN]):
        trained.accepted.clear()
        assert magic(*verb).exit_code == 2 and not trained.accepted

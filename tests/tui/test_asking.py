"""What asking takes, what is asked, and how texts are laid out."""

import shlex
from pathlib import Path

import pytest
from rich.cells import cell_len

from engine.runs.arrays import open_array
from engine.runs.atomic import size_on_disk
from engine.runs.journal import JournalWriter
from engine.runs.request import read_asked
from engine.runs.run_folder import RunFolder
from magic_tui.queries.basket import Basket, attribute_command
from magic_tui.queries.candidates import Candidate, TextLosses, TokenLoss, request_of
from magic_tui.queries.loss_lines import basket_lines, candidate_line, loss_shading, source_text
from magic_tui.queries.query_cost import query_cost
from magic_tui.queries.sources import Source, complete_sources, with_results
from tests.cli.fake_run import FakeRun
from tests.tui.kept_run import HOSTILE, assert_harmless, write_kept

PLAIN, PROMPTED = Candidate("it rains"), Candidate("q: it rains", prompt="q: ")


@pytest.fixture
def kept(tmp_path: Path) -> RunFolder:
    return write_kept(tmp_path / "runs")


def test_cost_follows_from_what_the_run_measured(kept: RunFolder) -> None:
    two, four = query_cost(kept, 2), query_cost(kept, 4)
    # 12 steps at 0.1 s for two queries; 3.1 + 2.3 a query more in units of a training step.
    assert two.seconds == pytest.approx(12 * 0.1 + 12 * 0.01)
    assert four.seconds == pytest.approx(12 * 0.1 * (3.1 + 3 * 2.3) / (3.1 + 2.3) + 0.12)
    rows, tokens = open_array(kept.rows_store, "input_ids").shape
    # A cotangent like a state, and float32 scores.
    assert two.memory is not None and four.memory is not None
    assert four.memory - 10 == 2 * (3000 + 4 * rows * tokens)
    assert two.disk == 2 * (size_on_disk(kept.attributions / "a0001") // 2)
    assert (two.passes, two.measured) == (1, True)


def test_cost_of_a_run_that_was_never_asked(tmp_path: Path) -> None:
    run = FakeRun(finished=False).write(tmp_path)
    cost = query_cost(run, 1)
    rows, tokens = open_array(run.rows_store, "input_ids").shape
    assert cost.seconds == pytest.approx(12 * 0.05 * 3.1)
    assert (cost.memory, cost.measured, cost.disk) == (None, False, 4 * rows * tokens)
    assert "from its training steps" in "".join(
        line.plain for line in basket_lines(1, "none", cost, 100)
    )


def test_a_run_that_had_to_split_its_queries_splits_again(kept: RunFolder) -> None:
    journal = JournalWriter(kept.events_file)
    journal.append("phase", phase="replay", total=24, attribution="a0002")
    for number in range(2):
        journal.append("pass", number=number, passes=2, queries=[number], reason="memory")
        for step in (11, 10):
            journal.append("replay_step", step=step, cotangent_norms=[1.0], seconds=0.2, memory=9)
    journal.close()
    cost = query_cost(kept, 3)
    assert cost.passes == 3
    assert cost.seconds == pytest.approx(3 * (12 * 0.2 + 0.12))


def test_a_run_that_spares_memory_splits_its_queries(kept: RunFolder) -> None:
    assert query_cost(kept, 8).passes == 1
    kept.write_prepared({"checkpointing": "gradients", "device": "cpu"})
    assert (query_cost(kept, 8).passes, query_cost(kept, 2).passes) == (3, 1)
    kept.write_prepared({"checkpointing": "gradients", "device": "cuda"})
    assert query_cost(kept, 8).passes == 1
    kept.write_prepared({"checkpointing": "sqrt", "device": "cpu"})
    assert query_cost(kept, 8).passes == 1


@pytest.mark.parametrize(
    ("sizes", "asked", "passes"),
    [
        # Four are enough of 16; memory held no more than two.
        ([2] * 8, 16, 8),
        # Four of 16 were all that is worth while, which says nothing of 8.
        ([4] * 4, 8, 3),
        # Queries that are small beside their graph go together.
        ([8], 8, 1),
    ],
)
def test_passes_so_far_tell_of_the_next(
    kept: RunFolder, sizes: list[int], asked: int, passes: int
) -> None:
    kept.write_prepared({"checkpointing": "gradients", "device": "cpu"})
    journal = JournalWriter(kept.events_file)
    journal.append("phase", phase="replay", total=24, attribution="a0002")
    for number, size in enumerate(sizes):
        queries = list(range(size))
        journal.append("pass", number=number, passes=len(sizes), queries=queries, reason="")
    journal.close()
    assert query_cost(kept, asked).passes == passes


def test_what_is_asked_is_what_the_contract_takes() -> None:
    plain = read_asked(request_of([PLAIN], "none"))
    assert (plain.texts, plain.prompts) == (("it rains",), None)
    both = read_asked(request_of([PLAIN, PROMPTED], "mean"))
    assert (both.texts, both.prompts) == (("it rains", "it rains"), ("", "q: "))
    command = shlex.split(attribute_command("r1", [PLAIN, PROMPTED], "mean", "/my runs"))
    assert command == [
        *("magic", "attribute", "r1", "--prompt", "", "--text", "it rains", "--prompt", "q: "),
        *("--text", "it rains", "--reduction", "mean", "--runs-dir", "/my runs"),
    ]
    assert attribute_command("r1", [], "none", None) == 'magic attribute r1 --text "…"'


def test_a_basket_holds_nothing_twice() -> None:
    basket = Basket()
    basket.toggle(PLAIN)
    basket.toggle(PROMPTED)
    assert Candidate("it rains", after=1.0) in basket
    assert (len(basket), basket.queries) == (2, 2)
    basket.cycle_reduction()
    assert (basket.reduction, basket.queries) == ("mean", 1)
    basket.toggle(Candidate("it rains", scored_in=("a0001", 0)))
    assert list(basket) == [PROMPTED]


def test_asked_before_names_every_query(kept: RunFolder) -> None:
    (source,) = complete_sources(kept)
    assert (source.name, source.attribution, source.total) == ("queries of a0001", "a0001", 2)
    assert [(c.text, c.scored_in, c.before, c.after) for c in source.candidates] == [
        ("who sat on the mat?", ("a0001", 0), 6.0, 3.0),
        ("wörld peace", ("a0001", 1), 7.0, 4.0),
    ]


def test_texts_learn_who_asked_them_meanwhile(kept: RunFolder) -> None:
    typed = Source("typed", (Candidate("wörld peace"), PROMPTED), 2)
    answered = with_results(typed, complete_sources(kept))
    assert answered.candidates[0].scored_in == ("a0001", 1)
    assert answered.candidates[1] == PROMPTED and answered.name == "typed"


def test_levels_of_loss() -> None:
    tokens = [TokenLoss("a", loss) for loss in (0.0, 2.0, 4.0, 6.0, 8.0, None)]
    shading = loss_shading(TextLosses(4.0, tuple(tokens)))
    assert shading.levels.tolist() == [0, 1, 2, 3, 3, 0]
    assert shading.learned.tolist() == [True] * 5 + [False]
    zero = loss_shading(TextLosses(0.0, (TokenLoss("a", 0.0),)))
    assert zero.levels.tolist() == [0]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_lines(text: str) -> None:
    candidate = Candidate(text * 2, prompt=text)
    for width in (10, 80):
        line = candidate_line(candidate, True, width, True).plain
        assert_harmless(line)
        assert width < 40 or cell_len(line) <= width
    assert_harmless(source_text(text, 1, 2, 3, text))

"""The cost of queries, their request, and the layout of texts."""

import shlex
from pathlib import Path

import pytest
from rich.cells import cell_len

from engine.cost.attribution_cost import AttributionCost
from engine.runs.atomic import size_on_disk
from engine.runs.request import read_attribution_request
from engine.runs.run_folder import RunFolder
from magic_tui.queries.basket import Basket, attribute_command
from magic_tui.queries.candidates import Candidate, TextLosses, TokenLoss, request_of
from magic_tui.queries.loss_lines import basket_lines, candidate_line, loss_shading, source_text
from magic_tui.queries.query_cost import query_cost
from magic_tui.queries.sources import Source, complete_sources, with_results
from tests.cli.fake_run import FakeRun
from tests.tui.kept_run import HOSTILE, assert_harmless, record_costs, write_kept

PLAIN, PROMPTED = Candidate("it rains"), Candidate("q: it rains", prompt="q: ")


@pytest.fixture
def stored(tmp_path: Path) -> RunFolder:
    return write_kept(tmp_path / "runs")


def test_the_cost_follows_from_what_the_run_measured(stored: RunFolder) -> None:
    record_costs(stored)
    cost = query_cost(stored, 2)
    # 12 steps of 0.1 s for two queries, and 12 rebuilt states of 0.01 s.
    assert cost.seconds == pytest.approx(12 * 0.1 + 12 * 0.01)
    assert (cost.passes, cost.basis, cost.memory) == (1, "replays", 10)
    assert cost.disk == 2 * (size_on_disk(stored.attributions / "a0001") // 2)
    assert query_cost(stored, 4).memory == 10 + 2 * 4000
    assert "replay ≤ 2.5 s" in cost_text(query_cost(stored, 4))


def test_the_cost_of_a_run_that_measured_nothing_is_unknown(tmp_path: Path) -> None:
    run = FakeRun(finished=False).write(tmp_path)
    assert query_cost(run, 1) == AttributionCost(1)
    assert "replay time unknown: no step was timed" in cost_text(query_cost(run, 1))
    record_costs(run)
    assert query_cost(run, 3) == AttributionCost(3, passes=1, disk=2100)


def test_queries_that_do_not_fit_together_take_several_passes(stored: RunFolder) -> None:
    record_costs(stored, fitting=2)
    cost = query_cost(stored, 3)
    assert (cost.passes, cost.seconds) == (2, pytest.approx(2 * (12 * 0.1 + 0.12)))
    assert "2 passes" in cost_text(cost)


def cost_text(cost: AttributionCost) -> str:
    return "".join(line.plain for line in basket_lines(cost.queries, "none", cost, 150))


def test_the_request_matches_the_schema() -> None:
    plain = read_attribution_request(request_of([PLAIN], "none"))
    assert (plain.texts, plain.prompts) == (("it rains",), None)
    both = read_attribution_request(request_of([PLAIN, PROMPTED], "mean"))
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


def test_every_query_names_its_attribution(stored: RunFolder) -> None:
    (source,) = complete_sources(stored)
    assert (source.name, source.attribution, source.total) == ("queries of a0001", "a0001", 2)
    assert [(c.text, c.scored_in, c.before, c.after) for c in source.candidates] == [
        ("who sat on the mat?", ("a0001", 0), 6.0, 3.0),
        ("wörld peace", ("a0001", 1), 7.0, 4.0),
    ]


def test_texts_know_the_attribution_that_scored_them_meanwhile(stored: RunFolder) -> None:
    typed = Source("typed", (Candidate("wörld peace"), PROMPTED), 2)
    answered = with_results(typed, complete_sources(stored))
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

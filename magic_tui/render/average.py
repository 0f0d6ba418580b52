"""A mean over seeds as lines: what it means, its runs, how alike they are, how well it predicts."""

import math
from collections.abc import Iterator, Mapping

from rich.text import Text

from magic_tui.client.average import Average
from magic_tui.client.average_lds import why_no_lds
from magic_tui.client.validation import mean
from magic_tui.client.verdict import Verdict
from magic_tui.render.cells import fit, wrap
from magic_tui.render.numbers import counted

_MOST_QUERIES = 20
_MOST_LINES = 4
_SAME = (
    "all runs have the same scores: in this config the seed changes nothing, as the rows are not "
    "shuffled and no weight is drawn"
)


def average_lines(
    average: Average, verdicts: Mapping[str, Verdict | None], width: int
) -> Iterator[Text]:
    """All but the documents; ``verdicts`` are those on the runs' own scores, by run."""
    yield from _wrapped(meaning(len(average.seeds)), "bold", width)
    yield Text()
    for each in average.seeds:
        verdict = verdicts.get(each.run)
        said = "" if verdict is None else f"  {verdict.sign} {verdict.words}"
        line = f"run {each.run}  attribution {each.opened.id}  seed {each.seed}{said}"
        yield Text(fit(line, width), "dim")
    yield Text()
    yield from _figures(average)
    yield Text()
    for sentence in _legend(average):
        yield from _wrapped(sentence, "dim", width)


def meaning(runs: int) -> str:
    """What the averages are of, in a sentence."""
    return (
        f"Mean over {runs} seeds: how a query's loss, on average over trainings that differ only "
        "in their seed, answers a document's weight (± standard error); a single run's scores "
        "are those of its own model."
    )


def _figures(average: Average) -> Iterator[Text]:
    """How alike the runs are and what LDS there is, by query and in all."""
    lds = average.lds
    heads = f"{'LDS mean':>10}{'own':>8}{'single':>8}" if lds else ""
    yield Text(f"{'query':<8}{'alike':>8}{heads}", "dim")
    for query, agreement in enumerate(average.agreements[:_MOST_QUERIES]):
        yield _line(str(query), agreement, average.figures(query))
    hidden = len(average.agreements) - _MOST_QUERIES
    if hidden > 0:
        yield Text(f"and {counted(hidden, 'more query')}: see --json", "dim")
    yield _line("all", mean(average.agreements), None if lds is None else lds.figures())


def _line(name: str, agreement: float, figures: Mapping[str, float] | None) -> Text:
    numbers = [] if figures is None else list(figures.values())
    widths = (10, 8, 8)
    rest = "".join(f"{_number(n):>{w}}" for n, w in zip(numbers, widths, strict=False))
    return Text(f"{name:<8}{_number(agreement):>8}{rest}")


def _legend(average: Average) -> Iterator[str]:
    yield "alike: rank correlation of two runs' document scores, on average over all pairs"
    if average.lds is None:
        yield why_no_lds(average.seeds)
    else:
        low, high = average.lds.averaged.interval
        yield (
            f"LDS over {counted(average.lds.subsets, 'subset')} that every run left out: mean "
            f"scores against mean φ (95 % of all: {low:.2f} to {high:.2f}); own: a run's scores "
            "against its own φ; single: a run's scores against mean φ"
        )
    if average.identical:
        yield _SAME


def _wrapped(sentence: str, style: str, width: int) -> Iterator[Text]:
    for line in wrap(sentence, width, _MOST_LINES):
        yield Text(line, style, no_wrap=True)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"

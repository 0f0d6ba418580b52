"""A mean over seeds as lines: what it means, its runs, how alike they are, how well it predicts."""

import itertools
import math
from collections.abc import Iterator, Mapping

from rich.text import Text

from engine.evaluation.average import Average
from engine.evaluation.average_lds import why_no_lds
from engine.evaluation.lds_index import kind_text
from engine.evaluation.predictions import mean
from engine.evaluation.verdict import Verdict
from engine.runs.safe_text import one_line
from magic_tui.text.cells import fit, wrap
from magic_tui.text.numbers import counted

_MOST_QUERIES = 20
_MOST_LINES = 4
_WIDTHS = (10, 8, 8)
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
    kinds = [] if lds is None else lds.kinds
    if any(kinds):
        names = "".join(f"{_name(kind):>{sum(_WIDTHS)}}" for kind in kinds)
        yield Text(f"{'':<16}{names}", "dim")
    heads = f"{'LDS mean':>10}{'own':>8}{'single':>8}" * len(kinds)
    yield Text(f"{'query':<8}{'alike':>8}{heads}", "dim")
    for query, agreement in enumerate(average.agreements[:_MOST_QUERIES]):
        yield _line(str(query), agreement, average.figures(query))
    hidden = len(average.agreements) - _MOST_QUERIES
    if hidden > 0:
        yield Text(f"and {counted(hidden, 'more query')}: see --json", "dim")
    yield _line("all", mean(average.agreements), average.figures())


def _line(name: str, agreement: float, figures: Mapping[str, Mapping[str, float]] | None) -> Text:
    numbers = [value for of_kind in (figures or {}).values() for value in of_kind.values()]
    rest = "".join(f"{_number(n):>{w}}" for n, w in zip(numbers, itertools.cycle(_WIDTHS)))
    return Text(f"{name:<8}{_number(agreement):>8}{rest}")


def _name(kind: str) -> str:
    return fit(one_line(kind_text(kind)), sum(_WIDTHS) - 1)


def _legend(average: Average) -> Iterator[str]:
    yield "alike: rank correlation of two runs' document scores, on average over all pairs"
    if average.lds is None:
        yield why_no_lds(average.seeds)
    else:
        yield (
            "LDS over subsets that every run left out: mean scores against mean φ; own: a run's "
            "scores against its own φ; single: a run's scores against mean φ"
        )
        for kind, found in average.lds.averaged.ranked.items():
            low, high = found.interval
            where = kind_text(kind) and f" {kind_text(kind)}"
            yield (
                f"LDS{where} over {counted(found.subsets, 'subset')}, mean scores, all queries: "
                f"95 % within {low:.2f} and {high:.2f}"
            )
    if average.identical:
        yield _SAME


def _wrapped(sentence: str, style: str, width: int) -> Iterator[Text]:
    for line in wrap(sentence, width, _MOST_LINES):
        yield Text(line, style, no_wrap=True)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"

"""Mean scores over seeds as lines: what they mean, the runs, and how well they predict."""

from collections.abc import Iterator, Mapping

from rich.text import Text

from engine.evaluation.lds import mean_defined
from engine.evaluation.seeds import SeedMean, why_no_lds
from engine.evaluation.verdict import Verdict, kind_text
from engine.runs.safe_text import one_line
from magic_tui.text.cells import fit, wrap
from magic_tui.text.numbers import counted
from magic_tui.trust.trust_lines import number_text

_MOST_QUERIES = 20
_MOST_LINES = 4
_COLUMNS = (("LDS mean", 10), ("own", 8), ("single", 8))
_WIDTH = sum(width for _, width in _COLUMNS)
_MEANING = (
    "Mean over {} seeds: the effect of a document's weight on a query's loss, averaged over "
    "trainings that differ only in their seed (± standard error). A single run's scores hold for "
    "its own model."
)
_CORRELATION = "corr.: rank correlation of two runs' document scores, mean over all pairs"
_LDS = (
    "LDS over subsets that every run left out. mean: mean scores against mean φ; own: a run's "
    "scores against its own φ; single: a run's scores against mean φ"
)
_IDENTICAL = (
    "all runs have the same scores: in this config the seed changes nothing, because rows are not "
    "shuffled and no weights are drawn"
)


def average_lines(
    mean: SeedMean, verdicts: Mapping[str, Verdict | None], width: int
) -> Iterator[Text]:
    """Everything but the documents.

    Args:
        mean: the mean over seeds.
        verdicts: the verdict on each run's own scores, by run.
        width: cells of a line.
    """
    yield from _wrapped(_MEANING.format(len(mean.runs)), "bold", width)
    yield Text()
    for each in mean.runs:
        verdict = verdicts.get(each.run)
        suffix = "" if verdict is None else f"  {verdict.symbol} {verdict.words}"
        line = f"run {each.run}  attribution {each.attribution.id}  seed {each.seed}{suffix}"
        yield Text(fit(line, width), "dim")
    yield Text()
    yield from _table(mean)
    yield Text()
    for sentence in _legend(mean):
        yield from _wrapped(sentence, "dim", width)


def _table(mean: SeedMean) -> Iterator[Text]:
    """Correlation of the runs and LDS, by query and as the mean over queries."""
    if any(mean.kinds):
        labels = (fit(one_line(kind_text(kind)), _WIDTH - 1) for kind in mean.kinds)
        yield Text(f"{'':<16}{''.join(f'{label:>{_WIDTH}}' for label in labels)}", "dim")
    heads = "".join(f"{name:>{width}}" for name, width in _COLUMNS) * len(mean.kinds)
    yield Text(f"{'query':<8}{'corr.':>8}{heads}", "dim")
    for query, correlation in enumerate(mean.correlations[:_MOST_QUERIES]):
        yield _row(mean, str(query), correlation, query)
    hidden = len(mean.correlations) - _MOST_QUERIES
    if hidden > 0:
        yield Text(f"and {counted(hidden, 'more query')}: see --json", "dim")
    yield _row(mean, "all", mean_defined(mean.correlations))


def _row(mean: SeedMean, name: str, correlation: float, query: int | None = None) -> Text:
    cells = ""
    for kind in mean.kinds:
        values = vars(mean.lds(kind, query)).values()
        for value, (_, width) in zip(values, _COLUMNS, strict=True):
            cells += f"{number_text(value):>{width}}"
    return Text(f"{name:<8}{number_text(correlation):>8}{cells}")


def _legend(mean: SeedMean) -> Iterator[str]:
    yield _CORRELATION
    if mean.validations is None:
        yield why_no_lds(mean)
    else:
        yield _LDS
        for kind, each in mean.validations[0].ranked.items():
            low, high = each.interval
            where = kind_text(kind) and f" {kind_text(kind)}"
            yield (
                f"LDS{where} over {counted(each.subsets, 'subset')}, mean scores, all queries: "
                f"95 % interval {low:.2f} to {high:.2f}"
            )
    if mean.identical:
        yield _IDENTICAL


def _wrapped(sentence: str, style: str, width: int) -> Iterator[Text]:
    for line in wrap(sentence, width, _MOST_LINES):
        yield Text(line, style, no_wrap=True)

"""The trust in scores as lines: the Trust screen's facts, and the report of ``magic validate``."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from engine.evaluation.trust import Indicators, Numerics, Trust, kind_facts, points_facts
from engine.evaluation.validation import Points, Validation
from engine.evaluation.verdict import kind_text
from engine.runs.safe_text import one_line
from engine.scores.run_records import rounding_text
from magic_tui.text.cells import wrap
from magic_tui.text.numbers import counted

LARGE_GROWTH = 1e4
"""If the gradient norm grows by more over the replay, rounding grows noticeably with it."""
_LABEL_WIDTH = 18
_MOST_LINES = 4
_MOST_QUERIES = 20
_NAME_WIDTH = 18
_HEAD = (
    f"{{:<{_NAME_WIDTH}}}{'count':>6}{'LDS':>8}{'95 %':>16}{'Pearson':>9}{'error':>10}"
    f"{'spread':>10}"
)
LEGEND = "error: mean |actual − predicted|; spread: standard deviation of actual"


def verdict_lines(trust: Trust, width: int) -> Iterator[Text]:
    """The verdict, its reason and its remedy."""
    verdict = trust.verdict
    yield Text(f"{verdict.symbol} {verdict.words}", "bold", no_wrap=True)
    sentences = [verdict.reason, verdict.remedy and f"What may help: {verdict.remedy}."]
    for sentence in filter(None, sentences):
        for line in wrap(one_line(sentence), width, _MOST_LINES):
            yield Text(line, no_wrap=True)


def trust_lines(trust: Trust, query: int, width: int) -> Iterator[Text]:
    """Every fact after its label, wrapped."""
    for name, value in _facts(trust, query):
        wrapped = wrap(one_line(value), width - _LABEL_WIDTH, _MOST_LINES) or [""]
        for index, line in enumerate(wrapped):
            label = name if index == 0 else ""
            yield Text().append(label.ljust(_LABEL_WIDTH), "dim").append(line)


def report_lines(trust: Trust, baselines: Mapping[str, Validation], width: int) -> Iterator[Text]:
    """The verdict, then tables by kind of subset, by query and by baseline method.

    Args:
        trust: the attribution.
        baselines: other methods' predictions of the same retrainings.
        width: cells of a line.
    """
    yield from verdict_lines(trust, width)
    if trust.validation is not None:
        yield Text()
        yield from _kind_table(trust.validation)
        yield Text()
        yield from _query_table(trust.validation)
        yield Text()
        yield Text(LEGEND, "dim", no_wrap=True, overflow="fold")
        if baselines:
            yield Text()
            yield from _method_table({"magic": trust.validation, **baselines})
    yield Text()
    yield Text(f"every subset: {trust.file}", "dim", no_wrap=True, overflow="fold")


def number_text(value: float) -> str:
    """A correlation with three decimals; a dash if it is undefined."""
    return "–" if math.isnan(value) else f"{value:.3f}"


def _facts(trust: Trust, query: int) -> Iterator[tuple[str, str]]:
    if trust.validation is not None:
        yield from _validated(trust.validation, query)
    yield from _indicators(trust.indicators)
    yield from _arithmetic(trust.numerics, query)
    if trust.validation is None:
        yield "", ""
        yield from _next_steps(trust)


def _validated(validation: Validation, query: int) -> Iterator[tuple[str, str]]:
    for kind, each in validation.ranked.items():
        value = f"{number_text(each.lds)}, mean of {counted(len(each.points), 'query')}"
        if not math.isnan(each.interval[0]):
            value += f", 95 % interval {each.interval[0]:.2f} to {each.interval[1]:.2f}"
        yield f"LDS {kind_text(kind)}".strip(), f"{value}, {counted(each.subsets, 'subset')}"
    retrained = counted(validation.subsets, "subset")
    if validation.skipped:
        retrained += f", {counted(validation.skipped, 'line')} skipped: not finite"
    yield "retrained", retrained
    points = validation.of_query(query)
    if points is None:
        yield "this query", "was not validated"
        return
    for kind in validation.ranked:
        own = points.of_kind(kind)
        if own.subsets:
            yield f"this, {kind_text(kind)}" if kind else "this query", _of_query(own)


def _of_query(points: Points) -> str:
    outliers = counted(int(points.outliers().sum()), "outlier")
    return (
        f"LDS {number_text(points.lds)}, {outliers}, Pearson {number_text(points.pearson)}, mean "
        f"absolute error {points.error:.2g} (standard deviation of φ {points.spread:.2g})"
    )


def _indicators(indicators: Indicators) -> Iterator[tuple[str, str]]:
    if indicators.metasmoothness is not None:
        yield "metasmoothness", f"{indicators.metasmoothness:.3f} of 1, from three trainings"
    if indicators.linearity is not None:
        yield "linearity", f"{indicators.linearity:.2f} of 1, φ over two halves of a weight"
    if indicators.numerical_agreement is not None:
        correlation, difference = indicators.numerical_agreement
        yield (
            "numerical agr.",
            f"a replay in other micro-batches gives scores that correlate {correlation:.4f} and "
            f"differ by at most {difference:.1e} of their size",
        )


def _arithmetic(numerics: Numerics, query: int) -> Iterator[tuple[str, str]]:
    yield "dtype", numerics.dtype + "".join(f", {name} forced" for name in numerics.forced)
    yield "eps_root", f"{numerics.eps_root:g}"
    if numerics.reproduced is not None:
        off = f" (gradients differ by {numerics.difference:.1e})" if numerics.difference else ""
        result = "the same bits" if numerics.reproduced else f"other bits{off}"
        yield "last step", f"repeating it gave {result}"
    if query < len(numerics.rounding):
        yield "rounding", rounding_text(numerics.rounding[query])
    for sentence in numerics.findings:
        yield "warning", sentence
    if query in numerics.norms:
        end, start, most = numerics.norms[query]
        growth = most / end if end > 0 else math.inf
        value = f"norm {end:.3g} at the last step, {start:.3g} at the first, {most:.3g} at most"
        if growth > LARGE_GROWTH:
            value += "; it grows much, and rounding grows with it"
        yield "gradient ∂φ/∂s", value


def _next_steps(trust: Trust) -> Iterator[tuple[str, str]]:
    """What to do about scores that are not validated."""
    if trust.numerics.dtype != "float64":
        yield (
            "rounding",
            "magic validate --count 0 --numerical-agreement replays again in other micro-batches; "
            "the difference is rounding",
        )
    if not trust.numerics.eps_root > 0:
        yield (
            "eps_root",
            "with eps_root: 0 a step is not smooth where a gradient is near 0, and scores may be "
            "far too large; train with 1e-8 and compare",
        )
    yield (
        "validation",
        "retrains without some documents and compares; this screen shows every subset and the LDS "
        "while it runs",
    )
    yield "command", f"magic validate {trust.run} -a {trust.attribution}"


def _kind_table(validation: Validation) -> Iterator[Text]:
    yield Text(_HEAD.format("subsets"), "dim")
    for kind in validation.kinds:
        facts = kind_facts(validation, kind)
        yield _row(one_line(kind or "subsets"), facts, _interval_text(facts["interval"]))


def _query_table(validation: Validation) -> Iterator[Text]:
    """One line for each query and kind of subset."""
    yield Text(_HEAD.format("query"), "dim")
    several = len(validation.kinds) > 1
    for points in validation.points[:_MOST_QUERIES]:
        for each in points.by_kind:
            facts = points_facts(each)
            name = f"{points.query} {facts['kind']}" if several else str(points.query)
            yield _row(one_line(name), facts)
    hidden = len(validation.points) - _MOST_QUERIES
    if hidden > 0:
        yield Text(f"and {counted(hidden, 'more query')}: see --json", "dim")


def _row(name: str, facts: Mapping[str, Any], interval: str = "") -> Text:
    return Text(
        f"{name:<{_NAME_WIDTH}}{facts['subsets']:>6}{number_text(facts['lds']):>8}{interval:>16}"
        f"{number_text(facts['pearson']):>9}{facts['error']:>10.2g}{facts['spread']:>10.2g}"
    )


def _method_table(methods: Mapping[str, Validation]) -> Iterator[Text]:
    """One line for each method and kind of subset that has an LDS."""
    yield Text(f"{'method':<{_NAME_WIDTH}}{'count':>6}{'LDS':>8}{'95 %':>16}{'Pearson':>9}", "dim")
    kinds = next(iter(methods.values())).ranked
    for kind in kinds:
        if len(kinds) > 1:
            yield Text(f"LDS {one_line(kind_text(kind))}", "dim")
        for name, validation in methods.items():
            facts = kind_facts(validation, kind)
            yield Text(
                f"{name:<{_NAME_WIDTH}}{facts['subsets']:>6}{number_text(facts['lds']):>8}"
                f"{_interval_text(facts['interval']):>16}{number_text(facts['pearson']):>9}"
            )


def _interval_text(interval: Sequence[float]) -> str:
    low, high = interval
    return "–" if math.isnan(low) else f"{low:.2f} to {high:.2f}"

"""What ``magic validate`` found, as lines: the verdict, then by kind of subset and by query."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from engine.evaluation.lds_index import kind_text
from engine.evaluation.predictions import Validation
from engine.evaluation.trust import Trust
from engine.evaluation.validated import kind_facts, points_facts
from engine.runs.safe_text import one_line
from magic_tui.text.numbers import counted
from magic_tui.trust.trust_lines import verdict_lines

_MOST_QUERIES = 20
_NAME_WIDTH = 18
_HEAD = (
    f"{{:<{_NAME_WIDTH}}}{'count':>6}{'LDS':>8}{'95 %':>16}{'Pearson':>9}{'error':>10}"
    f"{'spread':>10}"
)


SPREAD = "error: mean |came out − predicted|; spread: standard deviation of what came out"


def validated_lines(trust: Trust, others: Mapping[str, Validation], width: int) -> Iterator[Text]:
    """Everything that was found; ``others`` are baselines on the same retrainings."""
    yield from verdict_lines(trust, width)
    if trust.validation is not None:
        yield Text()
        yield from _kinds(trust.validation)
        yield Text()
        yield from _queries(trust.validation)
        yield Text()
        yield Text(SPREAD, "dim", no_wrap=True, overflow="fold")
        if others:
            yield Text()
            yield from _methods({"magic": trust.validation, **others})
    yield Text()
    yield Text(f"every subset: {trust.file}", "dim", no_wrap=True, overflow="fold")


def _kinds(found: Validation) -> Iterator[Text]:
    yield Text(_HEAD.format("subsets"), "dim")
    for kind in found.kinds:
        facts = kind_facts(found, kind)
        yield _line(one_line(kind or "subsets"), facts, _between(facts["interval"]))


def _queries(found: Validation) -> Iterator[Text]:
    """By query, each kind of subset on a line of its own."""
    yield Text(_HEAD.format("query"), "dim")
    for points in found.points[:_MOST_QUERIES]:
        for each in points.by_kind:
            facts = points_facts(each)
            name = f"{points.query} {facts['kind']}" if len(found.kinds) > 1 else points.query
            yield _line(one_line(str(name)), facts)
    hidden = len(found.points) - _MOST_QUERIES
    if hidden > 0:
        yield Text(f"and {counted(hidden, 'more query')}: see --json", "dim")


def _line(name: str, facts: Mapping[str, Any], between: str = "") -> Text:
    return Text(
        f"{name:<{_NAME_WIDTH}}{facts['subsets']:>6}{_number(facts['lds']):>8}{between:>16}"
        f"{_number(facts['pearson']):>9}{facts['error']:>10.2g}{facts['spread']:>10.2g}"
    )


def _methods(methods: Mapping[str, Validation]) -> Iterator[Text]:
    """By kind of subset that has an LDS, what each method reached."""
    yield Text(f"{'method':<{_NAME_WIDTH}}{'count':>6}{'LDS':>8}{'95 %':>16}{'Pearson':>9}", "dim")
    kinds = next(iter(methods.values())).ranked
    for kind in kinds:
        if len(kinds) > 1:
            yield Text(f"LDS {one_line(kind_text(kind))}", "dim")
        for name, found in methods.items():
            facts = kind_facts(found, kind)
            yield Text(
                f"{name:<{_NAME_WIDTH}}{facts['subsets']:>6}{_number(facts['lds']):>8}"
                f"{_between(facts['interval']):>16}{_number(facts['pearson']):>9}"
            )


def _between(interval: Sequence[float]) -> str:
    low, high = interval
    return "–" if math.isnan(low) else f"{low:.2f} to {high:.2f}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"

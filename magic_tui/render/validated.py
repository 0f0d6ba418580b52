"""What ``magic validate`` found, as lines: the verdict, then by kind of subset and by query."""

import math
from collections.abc import Iterator, Mapping

from rich.text import Text

from magic_tui.client.trust import Trust
from magic_tui.client.validated import kind_facts
from magic_tui.client.validation import Validation, mean
from magic_tui.render.numbers import counted
from magic_tui.render.trust import verdict_lines
from magic_tui.safe_text import one_line

_MOST_QUERIES = 20
_NAME_WIDTH = 16


def validated_lines(trust: Trust, others: Mapping[str, Validation], width: int) -> Iterator[Text]:
    """Everything that was found; ``others`` are baselines on the same retrainings."""
    yield from verdict_lines(trust, width)
    if trust.validation is not None:
        yield Text()
        yield from _kinds(trust.validation)
        yield Text()
        yield from _queries(trust.validation)
        if others:
            yield Text()
            yield from _methods({"magic": trust.validation, **others})
    yield Text()
    yield Text(f"every subset: {trust.file}", "dim", no_wrap=True, overflow="fold")


def _kinds(found: Validation) -> Iterator[Text]:
    yield Text(
        f"{'subsets':<{_NAME_WIDTH}}{'count':>6}{'LDS':>8}{'95 %':>16}{'Pearson':>9}{'error':>10}",
        "dim",
    )
    for kind in found.kinds:
        facts = kind_facts(found, kind)
        between = _between(facts["interval"])
        name = one_line(kind or "subsets")
        yield Text(
            f"{name:<{_NAME_WIDTH}}{facts['subsets']:>6}{_number(facts['lds']):>8}{between:>16}"
            f"{_number(facts['pearson']):>9}{facts['error']:>10.2g}"
        )


def _queries(found: Validation) -> Iterator[Text]:
    yield Text(
        f"{'query':<{_NAME_WIDTH}}{'count':>6}{'LDS':>8}{'':>16}{'Pearson':>9}{'error':>10}", "dim"
    )
    for points in found.points[:_MOST_QUERIES]:
        yield Text(
            f"{points.query:<{_NAME_WIDTH}}{len(points.subsets):>6}{_number(points.lds):>8}{'':>16}"
            f"{_number(points.pearson):>9}{points.error:>10.2g}"
        )
    hidden = len(found.points) - _MOST_QUERIES
    if hidden > 0:
        yield Text(f"and {counted(hidden, 'more query')}: see --json", "dim")


def _methods(methods: Mapping[str, Validation]) -> Iterator[Text]:
    yield Text(f"{'method':<{_NAME_WIDTH}}{'count':>6}{'LDS':>8}{'95 %':>16}{'Pearson':>9}", "dim")
    for name, found in methods.items():
        pearson = mean([points.pearson for points in found.points])
        yield Text(
            f"{name:<{_NAME_WIDTH}}{found.ranked_subsets:>6}{_number(found.lds):>8}"
            f"{_between(found.interval):>16}{_number(pearson):>9}"
        )


def _between(interval: tuple[float, float]) -> str:
    low, high = interval
    return "–" if math.isnan(low) else f"{low:.2f} to {high:.2f}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"

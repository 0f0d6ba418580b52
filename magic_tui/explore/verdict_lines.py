"""A verdict on scores in the lines above them."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from engine.runs.safe_text import one_line
from engine.scores.run_records import rounding_text
from magic_tui.text.cells import fit, wrap

if TYPE_CHECKING:
    from engine.evaluation.verdict import Verdict

_MOST_LINES = 4


def judged_lines(verdict: "Verdict | None", width: int) -> Iterator[Text]:
    """Symbol and words; if the scores are doubtful or worse, also the reason and the remedy."""
    if verdict is None:
        return
    quiet = verdict.symbol not in "!✗"
    yield Text(f"{verdict.symbol} {verdict.words}", "dim" if quiet else "bold", no_wrap=True)
    for sentence in () if quiet else filter(None, (verdict.reason, verdict.remedy)):
        for line in wrap(one_line(sentence), width - 2, _MOST_LINES):
            yield Text(f"  {line}", "dim", no_wrap=True)


def warning_lines(view: Mapping[str, Any], query: int, width: int) -> Iterator[Text]:
    """How far rounding puts the scores of a query off, and everything that was warned of."""
    rounding = view.get("rounding") or ()
    if query < len(rounding):
        yield Text(fit(f"rounding: {rounding_text(rounding[query])}", width), "dim")
    for sentence in view.get("warnings") or ():
        for line in wrap(one_line(f"warning: {sentence}"), width, _MOST_LINES):
            yield Text(line, no_wrap=True)

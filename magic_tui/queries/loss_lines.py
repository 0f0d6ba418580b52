"""Query texts as lines: token losses, candidates, the basket and its cost."""

from collections.abc import Iterator

import numpy as np
from rich.text import Text

from engine.cost.attribution_cost import AttributionCost, Basis
from engine.runs.safe_text import one_line
from magic_tui.queries.candidates import Candidate, TextLosses
from magic_tui.text.cells import fit, join_that_fit, wrap
from magic_tui.text.numbers import bytes_text, count_text, counted, duration_text, loss_text
from magic_tui.text.tokens import (
    LOSS,
    LOSS_THRESHOLDS,
    Shading,
    levels_of,
    line_text,
    loss_legend,
    mark_text,
    wrap_shades,
)

_INDENT = "  "
_LONGEST_TEXT = 1000
_MOST_LINES = 12
_HARDEST = 5
_LONGEST_NAME = 18


def loss_shading(losses: TextLosses) -> Shading:
    """Levels of a text's tokens relative to its largest loss."""
    values = np.array([np.nan if t.loss is None else t.loss for t in losses.tokens], np.float64)
    levels = levels_of(values, losses.hardest, LOSS_THRESHOLDS)
    return Shading(levels, ~np.isnan(values), LOSS)


def loss_lines(
    losses: TextLosses, place: tuple[int, int], width: int, colour: bool
) -> Iterator[Text]:
    """A text's tokens shaded by their losses under the trained model, and the hardest of them.

    Args:
        losses: the losses of one of the query's texts.
        place: index of the text, and number of texts.
        width: cells of a line.
        colour: whether colour may carry meaning; otherwise marks follow each line.
    """
    shading = loss_shading(losses)
    shades = [shading.shade(index, token.text) for index, token in enumerate(losses.tokens)]
    lines = list(wrap_shades(shades, max(1, width - len(_INDENT))))
    yield Text()
    yield _title(losses, place, width, colour)
    for line in lines[:_MOST_LINES]:
        yield Text(_INDENT, no_wrap=True).append_text(line_text(line, LOSS))
        if not colour:
            yield Text(_INDENT + mark_text(line, LOSS), no_wrap=True)
    if len(lines) > _MOST_LINES:
        rest = counted(len(lines) - _MOST_LINES, "more line")
        yield Text(fit(f"{_INDENT}… {rest}; the whole text: 3, then t", width), "dim")
    yield Text(fit(f"{_INDENT}hardest: {_hardest(losses)}", width), "dim")


def note_lines(note: str, width: int) -> list[Text]:
    """A sentence in place of the tokens."""
    return [Text(), *(Text(_INDENT + line, "dim") for line in wrap(one_line(note), width - 2, 4))]


def source_text(name: str, listed: int, read: int, total: int, filter: str) -> str:
    """The source of the listed texts, and how many are listed."""
    if not name:
        return "no texts yet: type one with i, or open a file with f"
    parts = [f"{count_text(listed)} of {counted(read, 'text')}"]
    if total > read:
        parts.append(f"the first of {count_text(total)}")
    if filter:
        parts.append(f"with “{one_line(filter)}”")
    # A path may be long, so it comes last.
    return " · ".join([*parts, one_line(name)])


def candidate_line(candidate: Candidate, in_basket: bool, width: int, losses: bool) -> Text:
    """One text: basket mark, losses before and after training if known, beginning."""
    line = Text("● " if in_basket else "  ", no_wrap=True, end="")
    if losses:
        pair = ""
        if candidate.before is not None and candidate.after is not None:
            pair = f"{loss_text(candidate.before):>7} → {loss_text(candidate.after):>7}"
        line.append(f"{pair:17}  ", "dim")
    prompt = one_line(candidate.prompt[:_LONGEST_TEXT])
    text = candidate.cut_text or candidate.text
    rest = one_line(text[len(candidate.prompt) :][:_LONGEST_TEXT])
    if prompt:
        line.append(fit(prompt, max(0, (width - line.cell_len) // 2)), "dim").append(" → ")
    return line.append(fit(rest, max(0, width - line.cell_len)))


_BASES: dict[Basis, str] = {
    "replays": "from this run's replays",
    "steps": "from the steps timed before training",
    "upper bound": "from replays of other sizes",
}


def basket_lines(
    count: int, reduction: str, cost: AttributionCost | None, width: int
) -> Iterator[Text]:
    """The basket's content and the cost of an attribution."""
    if not count:
        yield Text(fit("basket empty: add texts with space, then press a", width), "dim")
        yield Text(fit("the stored trajectory is replayed; nothing is retrained", width), "dim")
        return
    content = {
        "none": f"{counted(count, 'query')}{', each with its own scores' if count > 1 else ''}",
        "mean": f"1 query: the mean loss of {counted(count, 'text')}",
        "sum": f"1 query: the summed loss of {counted(count, 'text')}",
    }[reduction]
    yield Text(fit(f"basket: {content}", width), "bold", no_wrap=True)
    yield Text(_cost_text(cost, width), no_wrap=True)


def _cost_text(cost: AttributionCost | None, width: int) -> str:
    if cost is None:
        return "estimating the cost …"
    parts = ["no retraining"]
    if cost.seconds is None:
        parts.append("replay time unknown: no step was timed")
    else:
        sign = "≤" if cost.basis == "upper bound" else "≈"
        parts.append(f"replay {sign} {duration_text(cost.seconds)}")
    if cost.memory is not None:
        parts.append(f"memory ≈ {bytes_text(cost.memory)}")
    if cost.disk is not None:
        parts.append(f"disk ≈ {bytes_text(cost.disk)}")
    if cost.passes is not None and cost.passes > 1:
        parts.append(counted(cost.passes, "pass"))
    if cost.basis is not None:
        parts.append(_BASES[cost.basis])
    return join_that_fit(parts, width, " · ")


def _title(losses: TextLosses, place: tuple[int, int], width: int, colour: bool) -> Text:
    text, texts = place
    title = "its tokens by loss"
    if texts > 1:
        title = f"the tokens of text {text + 1} of {texts} (t: next)"
    line = Text(fit(f"{title}, mean {loss_text(losses.loss)}", width), "bold", no_wrap=True)
    legend = Text("   ").append_text(loss_legend(losses.hardest, colour))
    return line.append_text(legend) if line.cell_len + legend.cell_len <= width else line


def _hardest(losses: TextLosses) -> str:
    known = [(token.loss, token.text) for token in losses.tokens if token.loss is not None]
    known.sort(key=lambda pair: -pair[0])
    names = (
        f"{fit(one_line(repr(text)), _LONGEST_NAME)} {loss_text(loss)}"
        for loss, text in known[:_HARDEST]
    )
    return ", ".join(names) or "no token has a loss"

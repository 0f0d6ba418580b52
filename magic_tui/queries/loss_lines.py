"""A text with its tokens shaded by their losses, and candidates for a query as lines."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from engine.runs.safe_text import one_line, safe_text
from magic_tui.queries.candidates import Candidate
from magic_tui.queries.query_cost import QueryCost
from magic_tui.text.cells import fit, join_that_fit
from magic_tui.text.numbers import bytes_text, count_text, counted, duration_text, loss_text

THRESHOLDS = (0.25, 0.5, 0.75)
"""Shares of the hardest token's loss at which levels 1, 2 and 3 begin."""
STYLES = (
    Style(),
    Style(color="color(140)"),
    Style(color="color(141)", bold=True),
    Style(color="color(16)", bgcolor="color(141)"),
)
MARKS = (" ", ".", ":", "#")
NOT_PREDICTED = Style(dim=True)
_LONGEST_TEXT = 1000

Run = tuple[int, str]
"""The index of a token, and as much of its text as stands in one line."""


def loss_level(loss: float | None, hardest: float) -> int:
    """Level 0 … 3 of a loss, ``hardest`` being the largest of the text."""
    if loss is None or not hardest > 0:
        return 0
    return sum(loss >= share * hardest for share in THRESHOLDS)


def wrap_tokens(tokens: Sequence[str], width: int) -> list[list[Run]]:
    """Lines of at most ``width`` cells, broken between words where possible and at line feeds."""
    lines: list[list[Run]] = [[]]
    used = 0
    for word in _words(tokens):
        size = sum(cell_len(text) for _, text in word)
        if word[0][1] == "\n":
            lines.append([])
            used = 0
            continue
        if used and used + size - (word[-1][1].endswith(" ")) > width:
            lines.append([])
            used = 0
        for token, text in word:
            for character in text:
                cells = cell_len(character)
                if used + cells > width:
                    if character == " ":
                        continue
                    lines.append([])
                    used = 0
                _add(lines[-1], token, character)
                used += cells
    return lines


def legend(hardest: float, colour: bool) -> Text:
    """What the shades mean."""
    line = Text("shaded from", "dim", no_wrap=True)
    for level, share in enumerate(THRESHOLDS, start=1):
        shown = f"{share * hardest:.1f}"
        line.append(" ")
        line.append(f" {shown} " if colour else f"{MARKS[level]} {shown}", STYLES[level])
    return line


def source_text(name: str, shown: int, known: int, total: int, filter: str) -> str:
    """Where the texts shown are from, and how many of them are shown."""
    if not name:
        return "no texts yet: type one with i, or open a file with f"
    parts = [f"{count_text(shown)} of {counted(known, 'text')}"]
    if total > known:
        parts.append(f"the first of {count_text(total)}")
    if filter:
        parts.append(f"with “{one_line(filter)}”")
    # A path may be long, so it comes last.
    return " · ".join([*parts, one_line(name)])


def candidate_line(candidate: Candidate, in_basket: bool, width: int, losses: bool) -> Text:
    """One text to ask about: whether it is in the basket, its losses if known, its beginning."""
    line = Text("● " if in_basket else "  ", no_wrap=True, end="")
    if losses:
        known = candidate.before is not None and candidate.after is not None
        before, after = (
            (loss_text(candidate.before), loss_text(candidate.after))
            if candidate.before is not None and candidate.after is not None
            else ("", "")
        )
        line.append(f"{before:>7}{' → ' if known else '   '}{after:>7}  ", "dim")
    prompt = one_line(candidate.prompt[:_LONGEST_TEXT])
    text = candidate.shown or candidate.text
    rest = one_line(text[len(candidate.prompt) :][:_LONGEST_TEXT])
    if prompt:
        line.append(fit(prompt, max(0, (width - line.cell_len) // 2)), "dim").append(" → ")
    return line.append(fit(rest, max(0, width - line.cell_len)))


def basket_lines(count: int, reduction: str, cost: QueryCost | None, width: int) -> Iterator[Text]:
    """What is in the basket, and what asking it would take."""
    if not count:
        yield Text(fit("basket empty: put texts in with space, then ask them with a", width), "dim")
        yield Text(fit("the kept trajectory answers; nothing is trained again", width), "dim")
        return
    made = {
        "none": f"{counted(count, 'query')}{', each with scores of its own' if count > 1 else ''}",
        "mean": f"1 query: the mean loss of {counted(count, 'text')}",
        "sum": f"1 query: the summed loss of {counted(count, 'text')}",
    }[reduction]
    yield Text(fit(f"basket: {made}", width), "bold", no_wrap=True)
    yield Text(_cost(cost, width), no_wrap=True)


def _cost(cost: QueryCost | None, width: int) -> str:
    if cost is None:
        return "its cost is being looked up …"
    if cost.seconds is None:
        time = "replay time not known yet"
    else:
        time = f"replay ≈ {duration_text(cost.seconds)}"
    parts = ["no retraining", time]
    if cost.memory is not None:
        parts.append(f"memory ≈ {bytes_text(cost.memory)}")
    parts.append(f"disk ≈ {bytes_text(cost.disk)}")
    if cost.passes > 1:
        parts.append(counted(cost.passes, "pass"))
    if cost.seconds is not None:
        parts.append("as this run measured" if cost.measured else "guessed from training steps")
    return join_that_fit(parts, width, " · ")


def _add(line: list[Run], token: int, character: str) -> None:
    if line and line[-1][0] == token:
        line[-1] = (token, line[-1][1] + character)
    else:
        line.append((token, character))


def _words(tokens: Sequence[str]) -> Iterator[list[Run]]:
    """Stretches kept on one line: up to and with the space behind a word, or a line feed."""
    word: list[Run] = []
    for index, token in enumerate(tokens):
        for character in safe_text(token, keep_newlines=True):
            if character == "\n":
                if word:
                    yield word
                yield [(index, "\n")]
                word = []
                continue
            _add(word, index, character)
            if character == " ":
                yield word
                word = []
    if word:
        yield word

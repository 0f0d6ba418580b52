"""Fitting text into terminal cells, where a character may take two of them or none."""

from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size

ELLIPSIS = "…"


def fit(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells, with an ellipsis if something had to go."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + ELLIPSIS[: max(0, width)]


def pad(text: str, width: int) -> str:
    """``text`` in exactly ``width`` cells."""
    return set_cell_size(fit(text, width), width)


def wrap(text: str, width: int, most_lines: int) -> list[str]:
    """Words in lines of at most ``width`` cells, an ellipsis at the end of the last if cut."""
    lines: list[str] = []
    for word in _short_words(text, width):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], " ".join(lines[most_lines - 1 :])]
    return [fit(line, width) for line in lines]


def _short_words(text: str, width: int) -> Iterator[str]:
    """The words of a text, those longer than a line in parts."""
    for word in text.split():
        while len(word) > 1 and cell_len(word) > width > 1:
            part = set_cell_size(word, width).rstrip()
            yield part
            word = word[len(part) :]
        yield word


def join_that_fit(parts: list[str], width: int, separator: str = "  ") -> str:
    """As many of the parts, the first ones first, as fit into ``width`` cells."""
    kept: list[str] = []
    for part in parts:
        if cell_len(separator.join([*kept, part])) > width:
            break
        kept.append(part)
    return separator.join(kept)

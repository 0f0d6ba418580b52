"""Fit text into terminal cells; a character takes zero, one or two cells."""

from collections.abc import Iterator

from rich.cells import cell_len, set_cell_size

ELLIPSIS = "…"


def fit(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells, with an ellipsis if it was cut."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + ELLIPSIS[: max(0, width)]


def pad(text: str, width: int) -> str:
    """``text`` in exactly ``width`` cells."""
    return set_cell_size(fit(text, width), width)


def wrap(text: str, width: int, most_lines: int) -> list[str]:
    """Lines of at most ``width`` cells, broken between words; the last one ends in ``…`` if cut."""
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
    """The words of a text; words longer than a line are split."""
    for word in text.split():
        while len(word) > 1 and cell_len(word) > width > 1:
            part = set_cell_size(word, width).rstrip()
            yield part
            word = word[len(part) :]
        yield word


def join_that_fit(parts: list[str], width: int, separator: str = "  ") -> str:
    """The first parts that fit into ``width`` cells, joined."""
    fitting: list[str] = []
    for part in parts:
        if cell_len(separator.join([*fitting, part])) > width:
            break
        fitting.append(part)
    return separator.join(fitting)

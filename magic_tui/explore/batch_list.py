"""The documents of one training step, one a line."""

from collections.abc import Callable, Sequence

from rich.text import Text

from magic_tui.explore.curves import BatchDocument
from magic_tui.explore.top_lines import HARMFUL, HELPFUL
from magic_tui.text.bars import CENTRE, signed_bar
from magic_tui.text.cells import fit
from magic_tui.text.numbers import counted, score_text
from magic_tui.widgets.line_list import LineList

_HALF = 6


class BatchList(LineList):
    """Scores are those of whole documents, over all their steps."""

    def __init__(self, snippet_of: Callable[[int], str | None]) -> None:
        """An empty list; ``snippet_of`` gives the beginning of a document if it is known."""
        super().__init__()
        self._snippet_of = snippet_of
        self._documents: Sequence[BatchDocument] = ()
        self._largest = 0.0
        self._digits = 1

    def show(self, documents: Sequence[BatchDocument]) -> None:
        """Show the documents of another step."""
        self._documents = documents
        self._digits = max((len(str(each.document)) for each in documents), default=1)
        self._largest = max((abs(each.score) for each in documents), default=0.0)
        self.cursor = 0
        self.changed()

    def document(self, index: int) -> int:
        """The document of a line."""
        return self._documents[index].document

    def count(self) -> int:
        """How many documents there are."""
        return len(self._documents)

    def line(self, index: int, width: int) -> Text:
        """One document."""
        each = self._documents[index]
        left, right = signed_bar(each.score, self._largest, _HALF)
        line = Text(f"{each.document:>{self._digits}}  ", no_wrap=True, end="")
        line.append(left, HELPFUL).append(CENTRE, "dim").append(right, HARMFUL)
        line.append(f" {score_text(each.score)}  ")
        line.append(f"{counted(each.tokens, 'token'):>12}  ", "dim")
        snippet = self._snippet_of(each.document) or "…"
        return line.append(fit(snippet, max(0, width - line.cell_len)))

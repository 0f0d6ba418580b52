"""Texts that can be asked about, one a line."""

from collections.abc import Callable, Sequence

from rich.text import Text

from magic_tui.queries.candidates import Candidate
from magic_tui.queries.loss_lines import candidate_line
from magic_tui.widgets.line_list import LineList


class CandidateList(LineList):
    """Draws only the texts on screen, however many there are."""

    def __init__(self, in_basket: Callable[[Candidate], bool]) -> None:
        """An empty list; ``in_basket`` tells which texts bear a mark."""
        super().__init__()
        self._in_basket = in_basket
        self._candidates: Sequence[Candidate] = ()
        self._has_losses = False

    def show(self, candidates: Sequence[Candidate]) -> None:
        """Show other texts."""
        self._candidates = candidates
        self._has_losses = any(each.after is not None for each in candidates[:100])
        self.changed()

    @property
    def current(self) -> Candidate | None:
        """The text under the cursor."""
        return self._candidates[self.cursor] if self._candidates else None

    def count(self) -> int:
        """How many texts there are."""
        return len(self._candidates)

    def line(self, index: int, width: int) -> Text:
        """One text."""
        candidate = self._candidates[index]
        return candidate_line(candidate, self._in_basket(candidate), width, self._has_losses)

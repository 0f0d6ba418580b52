"""The first line of a screen: its name, the selection, and the verdict on the scores."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual import work
from textual.content import Content
from textual.widget import Widget
from textual.worker import get_current_worker

from engine.runs.errors import MagicError
from engine.runs.safe_text import one_line
from magic_tui.text.cells import fit
from magic_tui.widgets.selection import Selection

if TYPE_CHECKING:
    from engine.evaluation.verdict import Verdict

_LOOK_SECONDS = 3.0


class Header(Widget):
    """Screen, run, attribution, query and verdict."""

    DEFAULT_CSS = """
    Header { height: 1; background: $panel; padding: 0 1; }
    """

    def __init__(self) -> None:
        """An empty header."""
        super().__init__()
        self._selection: Selection | None = None
        self._verdict: Verdict | None = None
        self._note = ""

    def on_mount(self) -> None:
        """Read the verdict regularly: a validation may finish at any time."""
        self.set_interval(_LOOK_SECONDS, self._read_if_current)

    def update(self, selection: Selection) -> None:
        """Show another selection."""
        before, self._selection = self._selection, selection
        subject = (selection.folder, selection.attribution)
        if before is None or subject != (before.folder, before.attribution):
            self._verdict = None
            # After the next frame: importing the reader takes long.
            self.call_after_refresh(self._read_if_current)
        self.refresh()

    def note(self, text: str) -> None:
        """Show a short text that a screen adds, such as ``3 of 12``."""
        if text != self._note:
            self._note = text
            self.refresh()

    def render(self) -> Content:
        """One line; the verdict at its end is kept, the rest is shortened to fit."""
        known = self._verdict if self._has_scores() else None
        verdict = f"{known.symbol} {known.words}" if known is not None else ""
        room = self.size.width - cell_len(verdict) - 2
        name, rest = self._title()
        left = fit(f"{name}  {rest}" if rest else name, max(0, room))
        gap = " " * max(1, self.size.width - cell_len(left) - cell_len(verdict))
        return Content.assemble(
            (left[: len(name)], "bold $primary"),
            (left[len(name) :], ""),
            gap,
            (verdict, known.style if known is not None else ""),
        )

    def _title(self) -> tuple[str, str]:
        number, name = getattr(self.screen, "NUMBER", 0), getattr(self.screen, "NAME", "")
        title = f"{number} {name}" if number else name
        selection = self._selection
        parts = [self._note] if self._note else []
        if selection is not None and selection.run is not None and number > 1:
            if number > 3:
                parts.append(f"query {selection.query}")
                if selection.attribution is not None:
                    parts.append(f"attribution {one_line(selection.attribution)}")
            parts.append(f"run {one_line(selection.run)}")
        return title, " · ".join(parts)

    def _has_scores(self) -> bool:
        number = getattr(self.screen, "NUMBER", 0)
        return number > 1 and self._selection is not None and self._selection.run is not None

    def _read_if_current(self) -> None:
        selection = self._selection
        # The screen may have been closed since the call was scheduled.
        current = self.is_attached and self.screen.is_current
        if current and selection is not None and selection.folder is not None:
            self._read(selection.folder.path, selection.attribution)

    @work(thread=True, exclusive=True, group="verdict", exit_on_error=False)
    def _read(self, run: Path, attribution: str | None) -> None:
        # A late import: it takes as long as the rest of the first screen.
        from engine.evaluation.trust import read_verdict

        verdict: Verdict | None = None
        with contextlib.suppress(MagicError, OSError, ValueError):
            verdict = read_verdict(run, attribution)
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._update, verdict)

    def _update(self, verdict: "Verdict | None") -> None:
        if verdict != self._verdict:
            self._verdict = verdict
            self.refresh()

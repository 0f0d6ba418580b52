"""The first line of every screen: where one is, of what, and how far it can be trusted."""

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
from magic_tui.dashboard.selection import Selection
from magic_tui.text.cells import fit

if TYPE_CHECKING:
    from engine.evaluation.verdict import Verdict

_LOOK_SECONDS = 3.0


class Header(Widget):
    """Screen, run, attribution, query and the verdict on the scores."""

    DEFAULT_CSS = """
    Header { height: 1; background: $panel; padding: 0 1; }
    """

    def __init__(self) -> None:
        """Nothing is selected yet."""
        super().__init__()
        self._selection: Selection | None = None
        self._verdict: Verdict | None = None
        self._note = ""

    def on_mount(self) -> None:
        """Follow the files: a validation may come in while nobody presses a key."""
        self.set_interval(_LOOK_SECONDS, self._look)

    def show(self, selection: Selection) -> None:
        """Tell of another selection."""
        before, self._selection = self._selection, selection
        about = (selection.folder, selection.attribution)
        if before is None or about != (before.folder, before.attribution):
            self._verdict = None
            # Behind the next frame: what reads a verdict takes long to load.
            self.call_after_refresh(self._look)
        self.refresh()

    def note(self, text: str) -> None:
        """Something short that a screen adds, such as ``3 of 12``."""
        if text != self._note:
            self._note = text
            self.refresh()

    def render(self) -> Content:
        """One line: the verdict at its end stays, what is before it gives way."""
        known = self._verdict if self._has_scores() else None
        verdict = f"{known.sign} {known.words}" if known is not None else ""
        room = self.size.width - cell_len(verdict) - 2
        name, rest = self._where()
        left = fit(f"{name}  {rest}" if rest else name, max(0, room))
        gap = " " * max(1, self.size.width - cell_len(left) - cell_len(verdict))
        return Content.assemble(
            (left[: len(name)], "bold $primary"),
            (left[len(name) :], ""),
            gap,
            (verdict, known.style if known is not None else ""),
        )

    def _where(self) -> tuple[str, str]:
        number, name = getattr(self.screen, "NUMBER", 0), getattr(self.screen, "NAME", "")
        title = f"{number} {name}" if number else name
        chosen = self._selection
        parts = [self._note] if self._note else []
        if chosen is not None and chosen.run is not None and number > 1:
            if number > 3:
                parts.append(f"query {chosen.query}")
                if chosen.attribution is not None:
                    parts.append(f"attribution {one_line(chosen.attribution)}")
            parts.append(f"run {one_line(chosen.run)}")
        return title, " · ".join(parts)

    def _has_scores(self) -> bool:
        number = getattr(self.screen, "NUMBER", 0)
        return number > 1 and self._selection is not None and self._selection.run is not None

    def _look(self) -> None:
        chosen = self._selection
        # Asked for a frame ago: its screen may have been left since.
        here = self.is_attached and self.screen.is_current
        if here and chosen is not None and chosen.folder is not None:
            self._read(chosen.folder.path, chosen.attribution)

    @work(thread=True, exclusive=True, group="verdict", exit_on_error=False)
    def _read(self, run: Path, attribution: str | None) -> None:
        # With what it reads it takes as long to load as all the rest of the first screen.
        from engine.evaluation.trust import read_verdict

        verdict: Verdict | None = None
        with contextlib.suppress(MagicError, OSError, ValueError):
            verdict = read_verdict(run, attribution)
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._take, verdict)

    def _take(self, verdict: "Verdict | None") -> None:
        if verdict != self._verdict:
            self._verdict = verdict
            self.refresh()

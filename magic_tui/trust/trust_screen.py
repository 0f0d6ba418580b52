"""The Trust screen: the verdict on the scores, its reasons, and every retrained subset."""

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.timer import Timer

from engine.evaluation.trust import Trust, read_trust
from engine.evaluation.validation import Points
from magic_tui.explore.explore_screen import ScoreScreen
from magic_tui.trust.scatter import Scatter
from magic_tui.trust.trust_lines import trust_lines, verdict_lines
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.selection import Selection

_WIDE = 110
"""From this width on the plot is to the right of the facts, else below them."""
_REFRESH_SECONDS = 5.0


class TrustScreen(ScoreScreen):
    """Screen 8."""

    NUMBER, NAME = 8, "Trust"
    ABOUT = (
        "How well the scores predict a query's loss after retraining without some documents. The "
        "LDS is the rank correlation of predicted and actual losses: 1 is perfect."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Q", "next_query", "query", tooltip="The next query."),
        Binding("y", "copy", "copy", tooltip="Copy the text of this screen."),
    ]
    DEFAULT_CSS = """
    TrustScreen Container { height: 1fr; layout: vertical; }
    TrustScreen #facts { width: 100%; }
    TrustScreen.-wide Container { layout: horizontal; }
    TrustScreen.-wide #facts { width: 52; }
    TrustScreen.-wide Scatter { width: 1fr; height: 100%; }
    """

    def __init__(self) -> None:
        """Start without an attribution."""
        super().__init__()
        self._trust: Trust | None = None
        self._refresh_timer: Timer | None = None

    def body(self) -> ComposeResult:
        """The facts and the plot."""
        with Container():
            yield Lines(1, id="facts")
            scatter = Scatter()
            scatter.display = False
            yield scatter

    def on_mount(self) -> None:
        """Read the validation again every few seconds, for new retrainings."""
        self._refresh_timer = self.set_interval(_REFRESH_SECONDS, self._reread)

    def selection_changed(self, selection: Selection) -> None:
        """Read another attribution."""
        self.read("trust", lambda browser: read_trust(browser.attribution), self._set_trust)

    def clear(self) -> None:
        """Clear the screen: the selection has changed."""
        self._trust = None
        self.query_one(Scatter).set_points(None)
        self._draw()

    def cli_equivalent(self) -> str:
        """The command that validates, or shows the validation."""
        validated = self._trust is not None and self._trust.validation is not None
        return self.command("validate", *(("--count", "0") if validated else ()))

    def disabled_reason(self, action: str) -> str | None:
        """Why an action is not available."""
        if action == "copy" and self._trust is None:
            return "there is no attribution to show: attribute a query on screen 3"
        if action == "point" and self._points() is None:
            return "this query has no retrained subsets"
        if action == "next_query" and self._trust is not None and self._trust.queries == 1:
            return "this attribution has only one query"
        return None

    def action_next_query(self) -> None:
        """Select the next query."""
        self.select_query(1)

    def action_copy(self) -> None:
        """Copy the verdict and its facts."""
        self.magic.copy("\n".join(line.plain for line in self._lines(200)), "trust")

    def on_resize(self, event: events.Resize) -> None:
        """Choose the place of the plot for the width."""
        self._draw()

    def _reread(self) -> None:
        if self.magic.current_screen is self:
            self.selection_changed(self.selection)

    def _set_trust(self, trust: Trust) -> None:
        self._trust = trust
        self.query_one(Scatter).set_points(self._points())
        self._draw()

    def _draw(self) -> None:
        wide = self.size.width >= _WIDE and self._points() is not None
        self.set_class(wide, "-wide")
        facts = self.query_one("#facts", Lines)
        lines = self._lines((52 if wide else self.size.width) - 2)
        facts.styles.height = len(lines)
        facts.update(lines)
        scatter = self.query_one(Scatter)
        if scatter.display != (self._points() is not None):
            scatter.display = not scatter.display
            if scatter.display:
                scatter.focus()

    def _points(self) -> Points | None:
        if self._trust is None or self._trust.validation is None:
            return None
        return self._trust.validation.of_query(self.selection.query)

    def _lines(self, width: int) -> list[Text]:
        if self._trust is None:
            return []
        query = self.selection.query
        return [
            *verdict_lines(self._trust, width),
            Text(),
            *trust_lines(self._trust, query, width),
        ]

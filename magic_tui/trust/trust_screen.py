"""How far the scores can be trusted: the verdict, what it rests on, and every retrained subset."""

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.timer import Timer

from engine.evaluation.predictions import Points
from engine.evaluation.trust import Trust, read_trust
from magic_tui.explore.explore_screen import ExploringScreen
from magic_tui.trust.scatter import Scatter
from magic_tui.trust.trust_lines import trust_lines, verdict_lines
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.selection import Selection

_BESIDE = 110
"""From this width on the plot stands beside the facts."""
_LOOK_SECONDS = 5.0


class TrustScreen(ExploringScreen):
    """Screen 8."""

    NUMBER, NAME = 8, "Trust"
    ABOUT = (
        "Whether the scores predicted what happened when documents were left out and the model "
        "was trained again. LDS is the rank correlation of predicted and actual: 1 is perfect."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Q", "next_query", "query", tooltip="The next query."),
        Binding("y", "copy", "copy", tooltip="Copy what stands here."),
    ]
    DEFAULT_CSS = """
    TrustScreen Container { height: 1fr; layout: vertical; }
    TrustScreen #facts { width: 100%; }
    TrustScreen.-beside Container { layout: horizontal; }
    TrustScreen.-beside #facts { width: 48; }
    TrustScreen.-beside Scatter { width: 1fr; height: 100%; }
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        super().__init__()
        self._trust: Trust | None = None
        self._look: Timer | None = None

    def body(self) -> ComposeResult:
        """The facts and the plot."""
        with Container():
            yield Lines(1, id="facts")
            scatter = Scatter()
            scatter.display = False
            yield scatter

    def on_mount(self) -> None:
        """Look now and then whether there are more retrainings."""
        self._look = self.set_interval(_LOOK_SECONDS, self._again)

    def selection_changed(self, selection: Selection) -> None:
        """Read what is known of another attribution."""
        self.read("trust", lambda explored: read_trust(explored.attribution), self._take)

    def clear(self) -> None:
        """Show nothing: what was shown is not what is selected."""
        self._trust = None
        self.query_one(Scatter).show(None)
        self._draw()

    def cli_equivalent(self) -> str:
        """Validate it, or show what that found."""
        validated = self._trust is not None and self._trust.validation is not None
        return self.command("validate", *(("--count", "0") if validated else ()))

    def disabled_reason(self, action: str) -> str | None:
        """Why a key does nothing now."""
        if action == "copy" and self._trust is None:
            return "there is no attribution to show: ask a query in screen 3"
        if action == "point" and self._points() is None:
            return "no retrained subset of this query is there to look at"
        if action == "next_query" and self._trust is not None and self._trust.queries == 1:
            return "this attribution has only one query"
        return None

    def action_next_query(self) -> None:
        """Look at the next query."""
        self.select_query(1)

    def action_copy(self) -> None:
        """Copy the verdict and its facts."""
        self.magic.copy("\n".join(line.plain for line in self._lines(200)), "trust")

    def on_resize(self, event: events.Resize) -> None:
        """Put the plot where there is room."""
        self._draw()

    def _again(self) -> None:
        if self.magic.current_screen is self:
            self.selection_changed(self.selection)

    def _take(self, trust: Trust) -> None:
        self._trust = trust
        self.query_one(Scatter).show(self._points())
        self._draw()

    def _draw(self) -> None:
        beside = self.size.width >= _BESIDE and self._points() is not None
        self.set_class(beside, "-beside")
        facts = self.query_one("#facts", Lines)
        lines = self._lines((48 if beside else self.size.width) - 2)
        facts.styles.height = len(lines)
        facts.show(lines)
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

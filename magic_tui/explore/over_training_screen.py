"""When in training a query's influence arose: signed, a step at a time, with loss and rate."""

from typing import ClassVar

import numpy as np
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from engine.runs.safe_text import one_line
from magic_tui.explore.batch_list import BatchList
from magic_tui.explore.curves import BatchDocument, Curves, batch_documents, read_curves
from magic_tui.explore.explore_screen import ExploringScreen
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.explore.step_charts import StepCharts
from magic_tui.text.cells import fit, join_that_fit
from magic_tui.text.numbers import counted, in_all, loss_text, score_text, share_text
from magic_tui.widgets.line_list import LineList
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection

_SIGN = "below the line a step helped (it lowered the query's loss), above it harmed"


class OverTrainingScreen(ExploringScreen):
    """Screen 7."""

    NUMBER, NAME = 7, "Over training"
    ABOUT = (
        "How much each training step helped or harmed the query, the sum so far, and the loss and "
        "learning rate of that step. Enter shows the documents of a step's batch."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Q", "next_query", "query", tooltip="The next query, the cursor where it is."),
        Binding("colon", "go_to", "go to step", tooltip="Go to a step by its number."),
        Binding("y", "copy", "copy", show=False, tooltip="Copy the line about this step."),
        Binding("e", "export", "export", show=False, tooltip="All steps as CSV, in a file."),
        Binding("escape", "close", "back", show=False, tooltip="Close the batch, or go back."),
    ]
    DEFAULT_CSS = """
    OverTrainingScreen BatchList { display: none; height: 40%; min-height: 5; }
    OverTrainingScreen #batch { display: none; background: $surface; }
    OverTrainingScreen.-batch BatchList, OverTrainingScreen.-batch #batch { display: block; }
    """

    def body(self) -> ComposeResult:
        """The query, the step under the cursor, the charts, the batch, a prompt."""
        yield Lines(2, id="about")
        yield StepCharts()
        yield Lines(id="batch")
        yield BatchList(self._snippet)
        yield Prompt()

    def selection_changed(self, selection: Selection) -> None:
        """Read the curves of another query."""
        query = selection.query
        self.read("curves", lambda explored: read_curves(explored.attribution, query), self._take)

    def clear(self) -> None:
        """Show nothing: what was shown is not what is selected."""
        self.remove_class("-batch")
        self.query_one(StepCharts).show(None)
        self.query_one("#about", Lines).show([])

    def cli_equivalent(self) -> str:
        """The whole scores of the documents, which are the nearest: no verb prints steps."""
        return self.command("top", "--query", self.selection.query)

    def disabled_reason(self, action: str) -> str | None:
        """Why a key does nothing now."""
        curves = self.query_one(StepCharts).curves if self.is_mounted else None
        if action in ("copy", "export", "go_to", "choose", "strong", "zoom") and curves is None:
            return "there is no attribution to show: ask a query in screen 3"
        if action == "next_query" and curves is not None and curves.queries == 1:
            return "this attribution has only one query"
        return None

    def action_next_query(self) -> None:
        """Look at the next query, the cursor where it is."""
        self.select_query(1)

    def action_go_to(self) -> None:
        """Ask for a step."""
        self.query_one(Prompt).open("go to step", "", self._go_to)

    def action_copy(self) -> None:
        """Copy the line about the step under the cursor."""
        self.magic.copy(self._readout(10_000), "step")

    def action_export(self) -> None:
        """All steps as CSV."""
        curves = self.query_one(StepCharts).curves
        if curves is not None:
            self.magic.copy(curves.csv(), "steps")

    async def action_close(self) -> None:
        """Close the batch; if none is open, go back."""
        if self.has_class("-batch"):
            self.remove_class("-batch")
            self.query_one(StepCharts).focus()
        else:
            await self.app.run_action("app.out")

    @on(StepCharts.Moved)
    def _moved(self) -> None:
        self._show_about()
        if self.has_class("-batch"):
            self._read_batch()

    @on(StepCharts.Chosen)
    def _chosen(self) -> None:
        self.add_class("-batch")
        self._read_batch()
        self.query_one(BatchList).focus()

    @on(LineList.Chosen)
    def _document_chosen(self, message: LineList.Chosen) -> None:
        self.magic.select(document=self.query_one(BatchList).document(message.index))
        self.magic.open_screen(5)

    def _take(self, curves: Curves) -> None:
        charts = self.query_one(StepCharts)
        first = charts.curves is None
        cursor = int(np.abs(curves.influence).argmax()) if first and curves.steps else None
        charts.show(curves, cursor)
        if first:
            charts.focus()
        self._show_about()
        if self.has_class("-batch"):
            self._read_batch()

    def _show_about(self) -> None:
        curves, width = self.query_one(StepCharts).curves, self.size.width - 2
        if curves is None:
            return
        head = Text(f"query {curves.query}", "bold", no_wrap=True, end="")
        head.append(f"{in_all(curves.queries)}  ", "not bold dim")
        text = one_line(curves.text[:1000])
        head.append(fit(text, max(0, width - head.cell_len)), "not bold italic")
        self.query_one("#about", Lines).show([head, Text(self._readout(width), end="")])

    def _readout(self, width: int) -> str:
        charts = self.query_one(StepCharts)
        curves = charts.curves
        if curves is None:
            return ""
        first, last = charts.group
        influence = float(curves.influence[first:last].sum())
        name = f"step {first}" if last == first + 1 else f"steps {first}–{last - 1}"
        kind = "helped" if influence < 0 else "harmed" if influence > 0 else "nothing"
        parts = [
            f"{name}: {kind} {score_text(influence)}",
            f"{share_text(curves.share(first, last))} of all",
            f"so far {score_text(float(curves.cumulative[last - 1]))}",
        ]
        loss, rate = float(curves.losses[last - 1]), float(curves.rates[last - 1])
        if not np.isnan(loss):
            parts.append(f"loss {loss_text(loss)}")
        if not np.isnan(rate):
            parts.append(f"rate {rate:.2e}")
        return join_that_fit(parts, width, " · ")

    def _go_to(self, text: str) -> None:
        charts = self.query_one(StepCharts)
        if text.strip().isdigit() and charts.curves is not None:
            charts.show(charts.curves, int(text))
            self._moved()

    def _read_batch(self) -> None:
        charts = self.query_one(StepCharts)
        query, step = self.selection.query, charts.strongest

        def make(explored: ScoreBrowser) -> tuple[int, list[BatchDocument]]:
            documents = batch_documents(explored.attribution, query, step)
            explored.load_snippets([each.document for each in documents])
            return step, documents

        self.read_more("batch", make, self._take_batch)

    def _take_batch(self, found: tuple[int, list[BatchDocument]]) -> None:
        step, documents = found
        self.query_one(BatchList).show(documents)
        first, last = self.query_one(StepCharts).group
        which = f"step {step}" if last == first + 1 else f"step {step}, the strongest of these"
        line = f"batch of {which}: {counted(len(documents), 'document')}, by whole score"
        self.query_one("#batch", Lines).show([Text(fit(line, self.size.width - 2), "bold", end="")])

    def _snippet(self, document: int) -> str | None:
        return None if self.explored is None else self.explored.snippets.get(document)

"""Screen 7, Over training: influence per training step, with loss and learning rate."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from engine.runs.safe_text import one_line
from magic_tui.explore.curves import BatchDocument, Curves, batch_documents, read_curves
from magic_tui.explore.explore_screen import ScoreScreen
from magic_tui.explore.score_browser import ScoreBrowser
from magic_tui.text.bars import CENTRE, HARMFUL, HELPFUL, signed_bar
from magic_tui.text.cells import fit, join_that_fit
from magic_tui.text.numbers import counted, in_all, loss_text, score_text, share_text
from magic_tui.widgets.lines import Lines
from magic_tui.widgets.prompt import Prompt
from magic_tui.widgets.selection import Selection
from magic_tui.widgets.step_charts import Chart, StepCharts
from magic_tui.widgets.virtual_list import VirtualList

_HALF_BAR = 6
_LOSS_STYLE, _RATE_STYLE = "color(250)", "color(140)"


class BatchList(VirtualList):
    """The documents of one step's batch with their scores over all steps."""

    def __init__(self, snippet_of: Callable[[int], str | None]) -> None:
        """An empty list; ``snippet_of`` returns the beginning of a document's text if loaded."""
        super().__init__()
        self._snippet_of = snippet_of
        self._documents: Sequence[BatchDocument] = ()
        self._largest = 0.0
        self._digits = 1

    def update(self, documents: Sequence[BatchDocument]) -> None:
        """Show another batch."""
        self._documents = documents
        self._digits = max((len(str(each.document)) for each in documents), default=1)
        self._largest = max((abs(each.score) for each in documents), default=0.0)
        self.cursor = 0
        self.reload()

    @property
    def document(self) -> int:
        """The document under the cursor."""
        return self._documents[self.cursor].document

    def count(self) -> int:
        """Number of documents."""
        return len(self._documents)

    def line(self, index: int, width: int) -> Text:
        """One document."""
        each = self._documents[index]
        left, right = signed_bar(each.score, self._largest, _HALF_BAR)
        line = Text(f"{each.document:>{self._digits}}  ", no_wrap=True, end="")
        line.append(left, HELPFUL).append(CENTRE, "dim").append(right, HARMFUL)
        line.append(f" {score_text(each.score)}  ")
        line.append(f"{counted(each.tokens, 'token'):>12}  ", "dim")
        snippet = self._snippet_of(each.document) or "…"
        return line.append(fit(snippet, max(0, width - line.cell_len)))


class OverTrainingScreen(ScoreScreen):
    """Charts over the steps; enter lists the documents of a step's batch."""

    NUMBER = 7
    NAME = "Over training"
    ABOUT = (
        "The influence of each training step on the query, its cumulative sum, and the loss and "
        "learning rate of the step. Bars below the zero line are helpful: the step lowered the "
        "query's loss. Enter lists the documents of the step's batch."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Q", "next_query", "query", tooltip="Next query, same step."),
        Binding("colon", "go_to", "go to step", tooltip="Go to a step by its number."),
        Binding("y", "copy", "copy", show=False, tooltip="Copy the facts about this step."),
        Binding("e", "export", "export", show=False, tooltip="Copy all steps as CSV."),
        Binding("escape", "close", "back", show=False, tooltip="Close the batch; else go back."),
    ]
    DEFAULT_CSS = """
    OverTrainingScreen BatchList { display: none; height: 40%; min-height: 5; }
    OverTrainingScreen #batch { display: none; background: $surface; }
    OverTrainingScreen.-batch BatchList, OverTrainingScreen.-batch #batch { display: block; }
    """

    def __init__(self) -> None:
        """An empty screen."""
        super().__init__()
        self.curves: Curves | None = None

    def body(self) -> ComposeResult:
        """Query and step, charts, batch, prompt."""
        yield Lines(2, id="facts")
        yield StepCharts()
        yield Lines(id="batch")
        yield BatchList(self._snippet)
        yield Prompt()

    @property
    def charts(self) -> StepCharts:
        """The charts."""
        return self.query_one(StepCharts)

    def selection_changed(self, selection: Selection) -> None:
        """Read the curves of the query."""
        query = selection.query
        self.read("curves", lambda browser: read_curves(browser.attribution, query), self._show)

    def clear(self) -> None:
        """Empty the screen."""
        self.curves = None
        self.remove_class("-batch")
        self.charts.update([])
        self.query_one("#facts", Lines).update([])

    def cli_equivalent(self) -> str:
        """``magic top`` comes closest: no command prints influence per step."""
        return self.command("top", "--query", self.selection.query)

    def disabled_reason(self, action: str) -> str | None:
        """Most actions need curves."""
        needs = ("copy", "export", "go_to", "choose", "strong", "zoom")
        if action in needs and self.curves is None:
            return "there is no attribution to show; ask a query in screen 3"
        return self.only_one_query() if action == "next_query" else None

    def action_next_query(self) -> None:
        """Show the next query at the same step."""
        self.select_query(1)

    def action_go_to(self) -> None:
        """Prompt for a step."""
        self.query_one(Prompt).open("go to step", "", self._go_to)

    def action_copy(self) -> None:
        """Copy the facts about the step under the cursor."""
        self.magic.copy(self._step_facts(10_000), "step")

    def action_export(self) -> None:
        """Copy all steps as CSV."""
        if self.curves is not None:
            self.magic.copy(self.curves.csv(), "steps")

    async def action_close(self) -> None:
        """Close the batch; without one go back."""
        if self.has_class("-batch"):
            self.remove_class("-batch")
            self.charts.focus()
        else:
            await self.app.run_action("app.out")

    @on(StepCharts.Moved)
    def _moved(self) -> None:
        self._update_facts()
        if self.has_class("-batch"):
            self._read_batch()

    @on(StepCharts.Chosen)
    def _open_batch(self) -> None:
        self.add_class("-batch")
        self._read_batch()
        self.query_one(BatchList).focus()

    @on(VirtualList.Chosen)
    def _open(self) -> None:
        self.open_document(self.query_one(BatchList).document)

    def _show(self, curves: Curves) -> None:
        first, self.curves = self.curves is None, curves
        cursor = int(np.abs(curves.influence).argmax()) if first and curves.steps else None
        charts = [
            Chart("influence", curves.influence, "sum"),
            Chart("sum so far", curves.cumulative, "last"),
            Chart("loss", curves.losses, "mean", _LOSS_STYLE),
            Chart("rate", curves.rates, "mean", _RATE_STYLE, from_zero=True),
        ]
        self.charts.update(charts, cursor)
        if first:
            self.charts.focus()
        self._moved()

    def _update_facts(self) -> None:
        curves, width = self.curves, self.size.width - 2
        if curves is None:
            return
        line = Text(f"query {curves.query}", "bold", no_wrap=True, end="")
        line.append(f"{in_all(curves.queries)}  ", "not bold dim")
        text = one_line(curves.text[:1000])
        line.append(fit(text, max(0, width - line.cell_len)), "not bold italic")
        facts = Text(self._step_facts(width), end="")
        self.query_one("#facts", Lines).update([line, facts])

    def _step_facts(self, width: int) -> str:
        curves = self.curves
        if curves is None:
            return ""
        first, last = self.charts.group
        influence = float(curves.influence[first:last].sum())
        name = f"step {first}" if last == first + 1 else f"steps {first}–{last - 1}"
        kind = "helpful" if influence < 0 else "harmful" if influence > 0 else "no influence"
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
        if text.strip().isdigit():
            self.charts.go_to(int(text))

    def _read_batch(self) -> None:
        query, step = self.selection.query, self.charts.strongest

        def load(browser: ScoreBrowser) -> tuple[int, list[BatchDocument]]:
            documents = batch_documents(browser.attribution, query, step)
            browser.load_snippets([each.document for each in documents])
            return step, documents

        self.read_more("batch", load, self._show_batch)

    def _show_batch(self, loaded: tuple[int, list[BatchDocument]]) -> None:
        step, documents = loaded
        self.query_one(BatchList).update(documents)
        first, last = self.charts.group
        which = f"step {step}" if last == first + 1 else f"step {step}, the strongest of these"
        count = counted(len(documents), "document")
        line = f"batch of {which}: {count}, by score over all steps"
        self.query_one("#batch", Lines).update(
            [Text(fit(line, self.size.width - 2), "bold", end="")]
        )

    def _snippet(self, document: int) -> str | None:
        return None if self.browser is None else self.browser.snippets.get(document)

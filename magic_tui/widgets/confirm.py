"""A confirmation dialog for actions that are hard to undo."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.runs.safe_text import one_line


class ConfirmScreen(ModalScreen[bool]):
    """``y`` confirms; ``n``, escape, ``q`` and enter decline."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes", priority=True),
        Binding("n,escape,q,enter", "answer(False)", "no", priority=True),
    ]
    DEFAULT_CSS = """
    ConfirmScreen { align: center middle; }
    ConfirmScreen Vertical {
        width: 66; max-width: 96%; height: auto;
        border: round $warning; padding: 0 1; background: $surface;
    }
    """

    def __init__(self, question: str, consequence: str) -> None:
        """A dialog with a question and a sentence on its consequence."""
        super().__init__()
        self._question, self._consequence = question, consequence

    def compose(self) -> ComposeResult:
        """Question, consequence, keys."""
        with Vertical():
            yield Static(Content.styled(one_line(self._question), "bold"))
            yield Static(Content(one_line(self._consequence)))
            yield Static(Content.assemble("\n", ("y", "bold"), " yes   ", ("n", "bold"), " no"))

    def action_answer(self, yes: bool) -> None:
        """Close the dialog with the answer."""
        self.dismiss(yes)

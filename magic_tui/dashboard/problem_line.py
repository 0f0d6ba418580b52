"""The place where a screen says what is wrong; takes no room while nothing is."""

from textual.content import Content
from textual.widgets import Static

from engine.runs.safe_text import one_line


class ProblemLine(Static):
    """One sentence, wrapped."""

    DEFAULT_CSS = """
    ProblemLine { display: none; height: auto; max-height: 4; padding: 0 1; color: $warning; }
    """

    sentence: str | None = None

    def show(self, sentence: str | None) -> None:
        """Show a sentence; None takes it away."""
        if sentence == self.sentence:
            return
        self.sentence = sentence
        self.display = sentence is not None
        self.update(Content(f"! {one_line(sentence)}" if sentence else ""))

"""The welcome screen: what magic does, and configs to start with."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from engine.runs.errors import MagicError
from engine.runs.safe_text import one_line
from magic_tui.runs import demo_config
from magic_tui.text.cells import fit, pad
from magic_tui.widgets.screen import MagicScreen
from magic_tui.widgets.virtual_list import VirtualList

ABOUT = (
    "Which training documents, and which of their tokens, made the model answer like this?",
    "",
    "magic trains a model and records every step. Given a query – a text – it differentiates back "
    "through training to score how each training token lowered (helpful) or raised (harmful) the "
    "query's loss. New queries need no new training.",
)
_KNOWN = {
    # As many as fit into 24 lines; the other samples need data to be downloaded.
    "demo": "a small model learns eight books; nothing is downloaded",
    "finetune-jsonl": "sample: fine-tune a model on a file of texts",
    "lora": "sample: fine-tune adapters (LoRA) on a frozen model",
    "packed-pretrain": "sample: pretrain from scratch on packed texts",
}


@dataclass(frozen=True)
class Offer:
    """A config to start with; the user names its file if there is no path."""

    name: str
    words: str
    path: Path | None


class OfferList(VirtualList):
    """Offers, one per line."""

    offers: tuple[Offer, ...] = ()

    def count(self) -> int:
        """Number of offers."""
        return len(self.offers)

    def line(self, index: int, width: int) -> Text:
        """One offer."""
        offer = self.offers[index]
        text = Text(no_wrap=True).append(pad(offer.name, 18), "bold")
        return text.append(fit(offer.words, max(0, width - 18)))


class WelcomeScreen(MagicScreen):
    """An explanation and a list of offers."""

    NUMBER = 0
    NAME = "magic"
    ABOUT = " ".join(part for part in ABOUT if part)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "app.new", "own config", tooltip="Start a run from a config of your own."),
        Binding("1", "app.screen(1)", "runs", tooltip="Open Runs."),
    ]
    DEFAULT_CSS = """
    WelcomeScreen #about { height: auto; padding: 1 2 0 2; max-width: 92; }
    WelcomeScreen #steps { height: auto; padding: 1 2 0 2; max-width: 92; }
    WelcomeScreen OfferList { height: auto; max-height: 12; margin: 1 1 0 1; max-width: 92; }
    """

    def body(self) -> ComposeResult:
        """Explanation, offers, next steps."""
        yield Static(self._about(), id="about")
        yield OfferList()
        yield Static(self._steps(), id="steps")

    def on_mount(self) -> None:
        """List the offers."""
        listed = self.query_one(OfferList)
        listed.offers = tuple(offers())
        listed.styles.height = len(listed.offers)
        listed.reload()
        listed.focus()

    def cli_equivalent(self) -> str:
        """``magic demo``."""
        return "magic demo"

    def on_virtual_list_chosen(self, event: VirtualList.Chosen) -> None:
        """Open the offer on the New run screen."""
        from magic_tui.runs.new_run_screen import NewRunScreen

        self.app.push_screen(NewRunScreen(self.query_one(OfferList).offers[event.index].path))

    def _about(self) -> Content:
        first, *rest = ABOUT
        return Content.assemble((first, "bold $primary"), "\n", "\n".join(rest))

    def _steps(self) -> Content:
        where = one_line(str(self.selection.runs_dir))
        return Content.assemble(
            ("⏎", "bold $accent"), " shows the cost of a run before it starts.\n",
            ("?", "bold $accent"), " lists the keys of a screen, ",
            ("^p", "bold $accent"), " finds them by name.\n\n",
            (f"Runs are stored in {where}", "dim"),
        )  # fmt: skip


def offers() -> list[Offer]:
    """The demo, some sample configs, and the user's own config."""
    samples: list[Offer] = []
    try:
        folder = demo_config().parent
        files = {name: folder / f"{name}.yaml" for name in _KNOWN}
        samples = [Offer(n, words, files[n]) for n, words in _KNOWN.items() if files[n].is_file()]
    except MagicError:
        pass
    return [*samples, Offer("own config…", "a run config in YAML", None)]

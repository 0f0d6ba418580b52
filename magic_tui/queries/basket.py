"""The texts of the next attribution, and their file: one per run, kept between sessions."""

import json
import shlex
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.runs.atomic import write_atomically
from engine.runs.errors import MagicError, UsageError
from engine.runs.paths import make_private, state_folder
from magic_tui.queries.candidates import Candidate

REDUCTIONS = ("none", "mean", "sum")
LARGEST_BYTES = 32 * 2**20
"""A larger basket file is not ours."""
_WRITING = threading.Lock()


class Basket:
    """Distinct texts in insertion order."""

    def __init__(self) -> None:
        """An empty basket."""
        self._texts: dict[tuple[str, str], Candidate] = {}
        self.reduction = REDUCTIONS[0]

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(list(self._texts.values()))

    def __contains__(self, candidate: Candidate) -> bool:
        return candidate.key in self._texts

    @property
    def queries(self) -> int:
        """Number of queries: one per text, or one in all with a reduction."""
        return len(self) if self.reduction == "none" else min(1, len(self))

    def add(self, candidate: Candidate) -> None:
        """Add a text unless it is in the basket."""
        self._texts.setdefault(candidate.key, candidate)

    def toggle(self, candidate: Candidate) -> None:
        """Add or remove a text."""
        if self._texts.pop(candidate.key, None) is None:
            self._texts[candidate.key] = candidate

    def clear(self) -> None:
        """Remove all texts."""
        self._texts.clear()

    def cycle_reduction(self) -> None:
        """Switch from one query per text to their mean, then to their sum."""
        place = REDUCTIONS.index(self.reduction) + 1
        self.reduction = REDUCTIONS[place % len(REDUCTIONS)]


def attribute_command(
    run: str, texts: Sequence[Candidate], reduction: str, runs_dir: str | None
) -> str:
    """The ``magic attribute`` command for some texts; with a placeholder if there are none."""
    words = ["magic", "attribute", run]
    prompted = any(each.prompt for each in texts)
    for each in texts:
        if prompted:
            words += ["--prompt", each.prompt]
        words += ["--text", each.text.removeprefix(each.prompt)]
    if reduction != "none":
        words += ["--reduction", reduction]
    if runs_dir is not None:
        words += ["--runs-dir", runs_dir]
    return shlex.join(words) + ("" if texts else ' --text "…"')


def load_basket(run: str) -> tuple[Basket, str | None]:
    """A run's saved basket; if its file is unreadable, an empty basket and the problem."""
    try:
        file = _file(run)
        with _WRITING:
            if not file.exists():
                return Basket(), None
            if file.stat().st_size > LARGEST_BYTES:
                raise ValueError("too large")
            return _parse(json.loads(file.read_bytes())), None
    except MagicError as error:
        return Basket(), str(error)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Basket(), f"the basket file {file} cannot be read; the basket starts empty"


def save_basket(run: str, basket: Basket) -> None:
    """Save a run's basket; an empty basket leaves no file.

    Raises:
        UnreachableError: if there is no folder for it.
        UsageError: if it cannot be written.
    """
    file = _file(run)
    try:
        # Inside the lock, so that the last writer writes the latest content.
        with _WRITING:
            texts = [{"text": each.text, "prompt": each.prompt} for each in basket]
            content = {"reduction": basket.reduction, "texts": texts}
            if texts:
                write_atomically(file, json.dumps(content).encode())
            else:
                file.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"the basket cannot be saved in {file.parent}: {error.strerror}; "
            "it is lost when you quit"
        ) from None


def _file(run: str) -> Path:
    folder = state_folder() / "baskets"
    make_private(folder, "MAGIC_STATE_DIR")
    return folder / f"{run}.json"


def _parse(content: Any) -> Basket:
    basket = Basket()
    if content["reduction"] not in REDUCTIONS:
        raise ValueError(content["reduction"])
    basket.reduction = content["reduction"]
    for each in content["texts"]:
        text, prompt = each["text"], each["prompt"]
        if not isinstance(text, str) or not isinstance(prompt, str) or not text.startswith(prompt):
            raise ValueError("not a text with its prompt")
        basket.add(Candidate(text, prompt))
    return basket

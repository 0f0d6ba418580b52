"""Baskets outlive the dashboard: what is in one is a small file, one for each run."""

import json
import threading
from pathlib import Path
from typing import Any

from engine.runs.atomic import write_atomically
from engine.runs.errors import MagicError, UsageError
from engine.runs.paths import make_private, state_folder
from magic_tui.queries.basket import REDUCTIONS, Basket
from magic_tui.queries.candidates import Candidate

_WRITING = threading.Lock()
LARGEST_BYTES = 32 * 2**20
"""A larger file is none of ours."""


def kept_basket(run: str) -> tuple[Basket, str | None]:
    """The basket kept of a run, and what is wrong with its file; that one counts as empty."""
    try:
        file = _file(run)
        with _WRITING:
            if not file.exists():
                return Basket(), None
            if file.stat().st_size > LARGEST_BYTES:
                raise ValueError("too large")
            return _basket(json.loads(file.read_bytes())), None
    except MagicError as error:
        return Basket(), str(error)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return Basket(), f"the basket kept in {file} cannot be read; it starts empty"


def keep_basket(run: str, basket: Basket) -> None:
    """Keep what is in the basket of a run; an empty one leaves no file.

    Raises:
        UnreachableError: if there is no folder for it.
        UsageError: if it cannot be written.
    """
    file = _file(run)
    try:
        # Of several threads whoever comes last writes what is in the basket then.
        with _WRITING:
            texts = [{"text": each.text, "prompt": each.prompt} for each in basket]
            content = {"reduction": basket.reduction, "texts": texts}
            if texts:
                write_atomically(file, json.dumps(content).encode())
            else:
                file.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"the basket cannot be kept in {file.parent}: {error.strerror}; it is lost on leaving"
        ) from None


def _file(run: str) -> Path:
    folder = state_folder() / "baskets"
    make_private(folder, "MAGIC_STATE_DIR")
    return folder / f"{run}.json"


def _basket(content: Any) -> Basket:
    basket = Basket()
    if content["reduction"] not in REDUCTIONS:
        raise ValueError(content["reduction"])
    basket.reduction = content["reduction"]
    for each in content["texts"]:
        text, prompt = each["text"], each["prompt"]
        if not isinstance(text, str) or not isinstance(prompt, str) or not text.startswith(prompt):
            raise ValueError("no text")
        basket.add(Candidate(text, prompt))
    return basket

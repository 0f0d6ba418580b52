"""Texts to ask about: where they come from, what the model finds hard in them, how to ask."""

import functools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.runs.errors import UsageError
from engine.runs.loaded_code import code_of
from engine.runs.read_config import absolute_path
from engine.runs.request import LONGEST_TEXT
from engine.runs.run_folder import RunFolder
from engine.scores.attribution import QueryDocument
from engine.scores.document import decode_pieces
from engine.scores.texts import CUT_MARK
from magic_tui.client.engine import Engine
from magic_tui.client.start import reach
from magic_tui.client.worker import run_worker

MOST_TEXTS = 5000
"""Texts of one file that are read to be browsed."""


@dataclass(frozen=True)
class Candidate:
    """A text that can be asked about."""

    text: str
    """All of it, the prompt included."""
    prompt: str = ""
    """Its beginning that is given and not asked about."""
    asked: tuple[str, int] | None = None
    """The attribution and the query that asked it already."""
    before: float | None = None
    after: float | None = None
    """Its mean loss before and after training, if that was measured."""
    shown: str | None = None
    """As far as the model reads it, if it is known to be cut."""

    @property
    def key(self) -> tuple[str, str]:
        """Equal for what is the same question."""
        return self.prompt, self.text


@dataclass(frozen=True)
class Source:
    """Texts of one origin, in its order."""

    name: str
    candidates: tuple[Candidate, ...]
    total: int
    """How many there are, of which not all may have been read."""
    attribution: str | None = None
    """The attribution that asked them, or is asking them."""
    answered: bool = True
    """Whether an attribution that asks them is complete."""


@dataclass(frozen=True)
class TokenLoss:
    """A stretch of a text and the mean loss of its tokens; None where nothing predicts them."""

    text: str
    loss: float | None


@dataclass(frozen=True)
class TextLosses:
    """A text under the trained model."""

    loss: float
    tokens: tuple[TokenLoss, ...]

    @functools.cached_property
    def hardest(self) -> float:
        """The largest loss: the scale of the colours."""
        return max((token.loss for token in self.tokens if token.loss is not None), default=0.0)


def candidate_of(document: QueryDocument) -> Candidate:
    """A document of query data as the model read it: a prompt's completion follows it directly."""
    prompt = str(document.columns.get("prompt") or "")
    completion = str(document.columns.get("completion") or "")
    # Data with a text may have columns of these names as well.
    if document.text == f"{prompt} → {completion}":
        return Candidate(prompt + completion, prompt)
    if document.whole is not None:
        return Candidate(document.whole, shown=document.text)
    return Candidate(document.text)


def why_not_ask(text: str) -> str | None:
    """Why a text would be refused, whatever the run."""
    if len(text) <= LONGEST_TEXT:
        return None
    return (
        f"the text has {len(text):,} characters, of which {LONGEST_TEXT:,} can be asked at once; "
        "shorten it"
    )


def source_named(line: str) -> tuple[str, dict[str, str]]:
    """The path, and the columns if any, that a typed line names: ``file column,column``."""
    try:
        path, *rest = shlex.split(line) or [""]
    except ValueError:
        path, rest = line.strip(), []
    columns = [name for name in ",".join(rest).split(",") if name]
    pair = ("prompt_column", "completion_column")
    keys = ("text_column",) if len(columns) < 2 else pair
    return path, dict(zip(keys, columns, strict=False))


def read_source(
    path: str,
    columns: Mapping[str, str],
    folder: Path,
    is_unwanted: Callable[[], bool] | None = None,
) -> Source:
    """The texts of query data: a file, a folder, or a data set of the hub.

    Args:
        path: where it is; a relative one starts from ``folder``.
        columns: ``text_column``, or ``prompt_column`` and ``completion_column``.
        folder: the folder that the user is in.
        is_unwanted: reading ends as soon as it says so.

    Raises:
        WorkerError: if it cannot be read.
    """
    source = {"path": absolute_path(path, folder), **columns}
    command = ["texts", "--source", json.dumps(source), "--first", str(MOST_TEXTS)]
    facts = run_worker(command, is_unwanted)
    texts = facts["texts"]
    prompts = facts["prompts"] or [""] * len(texts)
    made = tuple(Candidate(p + t, p) for p, t in zip(prompts, texts, strict=True))
    return Source(path, made, facts["documents"])


def _check_code(run: RunFolder) -> None:
    """Refuse to load the code of a run from elsewhere that its user has not accepted."""
    if not (code := code_of(run.config())):
        return
    reached = reach()
    engine = None if reached is None else Engine(*reached, run.path.parent)
    if engine is None or not engine.accepts_code(run.id):
        raise UsageError(
            f"run {run.id} runs code: {'; '.join(code)}; look at it, then accept it once with: "
            f"magic attribute {run.id} --trust"
        )


def read_losses(run: RunFolder, candidate: Candidate) -> TextLosses:
    """What the trained model finds hard in a text.

    Raises:
        WorkerError: if the text is too short, or the trajectory was removed.
    """
    asked = request_of([candidate], "none")
    _check_code(run)
    facts = run_worker(["losses", "--run", str(run.path), "--request", json.dumps(asked)])
    found = facts["queries"][0]
    ids = np.array([token["id"] for token in found["tokens"]], np.int64)
    losses = [token["loss"] for token in found["tokens"]]
    pieces = decode_pieces(run.tokenizer_file, ids)
    tokens = [TokenLoss(p.text, _mean(losses[p.start : p.stop])) for p in pieces]
    if found.get("cut_tokens"):
        tokens.append(TokenLoss(CUT_MARK, None))
    return TextLosses(found["loss"], tuple(tokens))


def request_of(basket: Sequence[Candidate], reduction: str) -> dict[str, Any]:
    """What the engine is asked for a basket."""
    asked: dict[str, Any] = {
        "texts": [each.text.removeprefix(each.prompt) for each in basket],
        "reduction": reduction,
    }
    if any(each.prompt for each in basket):
        asked["prompts"] = [each.prompt for each in basket]
    return asked


def _mean(losses: Sequence[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None

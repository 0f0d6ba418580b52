"""Query texts: candidates, their token losses, and the request to the engine."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.runs.errors import UsageError
from engine.runs.loaded_code import code_of
from engine.runs.request import LONGEST_TEXT
from engine.runs.run_folder import RunFolder
from engine.scores.attribution import QueryDocument
from engine.scores.document import decode_pieces
from engine.scores.texts import CUT_MARK
from magic_tui.client.engine import Engine
from magic_tui.client.engine_process import reach
from magic_tui.client.worker import run_worker


@dataclass(frozen=True)
class Candidate:
    """A possible query text."""

    text: str
    """The whole text, prompt included."""
    prompt: str = ""
    """The beginning that is given to the model and has no loss."""
    scored_in: tuple[str, int] | None = None
    """The attribution and query index that scored it."""
    before: float | None = None
    after: float | None = None
    """Mean losses before and after training, if measured."""
    cut_text: str | None = None
    """The part that the model reads, if the text is known to be cut."""

    @property
    def key(self) -> tuple[str, str]:
        """Equal for equal queries."""
        return self.prompt, self.text


@dataclass(frozen=True)
class TokenLoss:
    """A stretch of text and its tokens' mean loss; None where no loss is computed."""

    text: str
    loss: float | None


@dataclass(frozen=True)
class TextLosses:
    """The losses of a text under the trained model."""

    loss: float
    """Mean loss."""
    tokens: tuple[TokenLoss, ...]

    @functools.cached_property
    def hardest(self) -> float:
        """The largest loss: the scale of the shading."""
        return max((token.loss for token in self.tokens if token.loss is not None), default=0.0)


def candidate_of(document: QueryDocument) -> Candidate:
    """A query document as the model reads it: the completion directly follows the prompt."""
    prompt = str(document.columns.get("prompt") or "")
    completion = str(document.columns.get("completion") or "")
    # Data with a text column may have columns of these names too.
    if document.text == f"{prompt} → {completion}":
        return Candidate(prompt + completion, prompt)
    if document.whole is not None:
        return Candidate(document.whole, cut_text=document.text)
    return Candidate(document.text)


def text_problem(text: str) -> str | None:
    """Why no run accepts a text as a query; None if it may."""
    if len(text) <= LONGEST_TEXT:
        return None
    return f"the text has {len(text):,} characters; a query may have {LONGEST_TEXT:,}; shorten it"


def read_losses(run: RunFolder, candidate: Candidate) -> TextLosses:
    """Compute a text's token losses under the trained model, in a worker process.

    Raises:
        WorkerError: if the text is too short, or the trajectory was removed.
        UsageError: if the run's code has not been accepted.
    """
    request = request_of([candidate], "none")
    _check_code(run)
    facts = run_worker(["losses", "--run", str(run.path), "--request", json.dumps(request)])
    query = facts["queries"][0]
    ids = np.array([token["id"] for token in query["tokens"]], np.int64)
    losses = [token["loss"] for token in query["tokens"]]
    pieces = decode_pieces(run.tokenizer_file, ids)
    tokens = [TokenLoss(p.text, _mean(losses[p.start : p.stop])) for p in pieces]
    if query.get("cut_tokens"):
        tokens.append(TokenLoss(CUT_MARK, None))
    return TextLosses(query["loss"], tuple(tokens))


def request_of(texts: Sequence[Candidate], reduction: str) -> dict[str, Any]:
    """The attribution request for some texts."""
    request: dict[str, Any] = {
        "texts": [each.text.removeprefix(each.prompt) for each in texts],
        "reduction": reduction,
    }
    if any(each.prompt for each in texts):
        request["prompts"] = [each.prompt for each in texts]
    return request


def _check_code(run: RunFolder) -> None:
    """Refuse to load code of a run from elsewhere that its user has not accepted."""
    if not (code := code_of(run.config())):
        return
    reached = reach()
    engine = None if reached is None else Engine(*reached, run.path.parent)
    if engine is None or not engine.accepts_code(run.id):
        raise UsageError(
            f"run {run.id} runs code: {'; '.join(code)}; inspect it, then accept it once with: "
            f"magic attribute {run.id} --trust"
        )


def _mean(losses: Sequence[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None

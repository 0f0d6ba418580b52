"""Texts to ask about: where they come from, what the model finds hard in them, the basket."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.contract.read_config import absolute_path
from engine.records.run_folder import RunFolder
from engine.records.score_store import list_attributions
from magic_tui.client.attribution import QueryDocument, open_attribution
from magic_tui.client.document import decode_pieces
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
    """The attribution that asked them, if one did."""


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


def asked_before(run: RunFolder) -> list[Source]:
    """What each attribution of a run asked, the earliest first.

    Raises:
        UsageError: if the run is of an unknown format version.
        RunError: if a file is damaged.
    """
    return [_asked(run, folder.name) for folder in list_attributions(run.attributions)]


def with_answers(source: Source, found: Sequence[Source]) -> Source:
    """Texts of one origin that know which attribution asked them meanwhile."""
    answers = {each.key: each for asked in found for each in asked.candidates}
    return replace(source, candidates=tuple(answers.get(c.key, c) for c in source.candidates))


def candidate_of(document: QueryDocument) -> Candidate:
    """A document of query data as the model read it: a prompt's completion follows it directly."""
    prompt = str(document.columns.get("prompt") or "")
    completion = str(document.columns.get("completion") or "")
    # Data with a text may have columns of these names as well.
    if document.text == f"{prompt} → {completion}":
        return Candidate(prompt + completion, prompt)
    return Candidate(document.text)


def read_source(path: str, columns: Mapping[str, str], folder: Path) -> Source:
    """The texts of query data: a file, a folder, or a data set of the hub.

    Args:
        path: where it is; a relative one starts from ``folder``.
        columns: ``text_column``, or ``prompt_column`` and ``completion_column``.
        folder: the folder that the user is in.

    Raises:
        WorkerError: if it cannot be read.
    """
    source = {"path": absolute_path(path, folder), **columns}
    facts = run_worker(["texts", "--source", json.dumps(source), "--first", str(MOST_TEXTS)])
    texts = facts["texts"]
    prompts = facts["prompts"] or [""] * len(texts)
    made = tuple(Candidate(p + t, p) for p, t in zip(prompts, texts, strict=True))
    return Source(path, made, facts["documents"])


def read_losses(run: RunFolder, candidate: Candidate) -> TextLosses:
    """What the trained model finds hard in a text.

    Raises:
        WorkerError: if the text is too short, or the trajectory was removed.
    """
    asked = request_of([candidate], "none")
    facts = run_worker(["losses", "--run", str(run.path), "--request", json.dumps(asked)])
    found = facts["queries"][0]
    ids = np.array([token["id"] for token in found["tokens"]], np.int64)
    losses = [token["loss"] for token in found["tokens"]]
    pieces = decode_pieces(run.tokenizer_file, ids)
    tokens = [TokenLoss(p.text, _mean(losses[p.start : p.stop])) for p in pieces]
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


def _asked(run: RunFolder, attribution: str) -> Source:
    opened = open_attribution(run, attribution)
    candidates = tuple(
        replace(
            candidate_of(document),
            asked=(attribution, query.index),
            before=document.loss_before,
            after=document.loss_after,
        )
        for query in opened.queries
        for document in query.documents
    )
    return Source(f"asked in {attribution}", candidates, len(candidates), attribution)


def _mean(losses: Sequence[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None

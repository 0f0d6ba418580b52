"""Which documents are left out: drawn from a seed, so that a bank can grow without changing."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.runs.errors import UsageError
from engine.runs.request import ValidationRequest

ALL = "all"
"""The subset without a document: φ(1) is measured on its model."""
_SINGLE = 1
"""Keeps draws of single documents apart from those of shares, which begin with 0."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Subset:
    """Documents that are left out together; the name is a function of them."""

    name: str
    kind: str
    """``drop SHARE``, ``leave-one-out``, ``drop-top K`` or ``all``; an LDS is that of one kind."""
    documents: tuple[int, ...]


NOTHING = Subset(ALL, ALL, ())


def drawn_shares(documents: int, asked: ValidationRequest) -> Iterator[Subset]:
    """The random subsets of every share asked for: the n-th is the same however many there are.

    Raises:
        UsageError: if a share is all of the documents.
    """
    for share in asked.drop:
        size = max(1, round(share * documents))
        if size >= documents:
            raise UsageError(
                f"--drop {share:g} leaves none of the {documents} documents; give a smaller share"
            )
        for number in range(asked.count):
            random = np.random.default_rng([asked.seed, 0, size, number])
            chosen = np.sort(random.choice(documents, size, replace=False))
            name = f"{share:g}-seed{asked.seed}-{number}"
            yield Subset(name, f"drop {share:g}", tuple(chosen.tolist()))


def probed_subset(documents: int, asked: ValidationRequest) -> Subset:
    """The first random subset of the first share, or of 5 %."""
    share = asked.drop[0] if asked.drop else 0.05
    return next(drawn_shares(documents, ValidationRequest(drop=(share,), count=1, seed=asked.seed)))


def drawn_documents(documents: int, asked: ValidationRequest) -> Iterator[Subset]:
    """Single documents, the first of them the same however many are asked for."""
    order = np.random.default_rng([asked.seed, _SINGLE]).permutation(documents)
    for document in order[: asked.leave_one_out].tolist():
        yield Subset(f"document{document}", "leave-one-out", (document,))


def strongest(attribution: str, query: int, scores: Floats, count: int) -> Subset:
    """The documents that help a query most: those of the lowest scores, (document,).

    Raises:
        UsageError: if there are not so many.
    """
    if count >= len(scores):
        raise UsageError(
            f"--drop-top {count} leaves none of the {len(scores)} documents; give fewer"
        )
    chosen = np.sort(np.argsort(scores, kind="stable")[:count])
    name = f"top{count}-{attribution}-query{query}"
    return Subset(name, f"drop-top {count}", tuple(chosen.tolist()))

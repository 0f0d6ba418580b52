"""The documents to leave out, drawn from a seed so that more subsets can be added later."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.runs.errors import UsageError
from engine.runs.request import ValidationRequest

_ALL = "all"
_SINGLE = 1
"""Seeds of single documents; those of shares have 0 in its place."""
_DEFAULT_SHARE = 0.05

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Subset:
    """Documents that are left out together. The name is a function of how they were chosen."""

    name: str
    kind: str
    """``drop SHARE``, ``leave-one-out``, ``drop-top K`` or ``all``. An LDS is over one kind."""
    documents: tuple[int, ...]


NOTHING = Subset(_ALL, _ALL, ())
"""No document is left out: φ(1) is measured on this model."""


def random_subsets(documents: int, request: ValidationRequest) -> Iterator[Subset]:
    """The random subsets of every share; the n-th is the same for any count.

    Raises:
        UsageError: if a share is all of the documents.
    """
    for share in request.drop:
        size = max(1, round(share * documents))
        if size >= documents:
            raise UsageError(
                f"--drop {share:g} leaves none of the {documents} documents; give a smaller share"
            )
        for number in range(request.count):
            random = np.random.default_rng([request.seed, 0, size, number])
            chosen = np.sort(random.choice(documents, size, replace=False))
            name = f"{share:g}-seed{request.seed}-{number}"
            yield Subset(name, f"drop {share:g}", tuple(chosen.tolist()))


def metasmoothness_subset(documents: int, request: ValidationRequest) -> Subset:
    """The first random subset of the first share, or of 5 % if there is no share."""
    share = request.drop[0] if request.drop else _DEFAULT_SHARE
    one = ValidationRequest(drop=(share,), count=1, seed=request.seed)
    return next(random_subsets(documents, one))


def single_documents(documents: int, request: ValidationRequest) -> Iterator[Subset]:
    """Single documents; the n-th is the same for any number of them."""
    order = np.random.default_rng([request.seed, _SINGLE]).permutation(documents)
    for document in order[: request.leave_one_out].tolist():
        yield Subset(f"document{document}", "leave-one-out", (document,))


def most_helpful(attribution: str, query: int, scores: Floats, count: int) -> Subset:
    """The most helpful documents of a query: those of the lowest scores, (document,).

    Raises:
        UsageError: if there are not more than ``count`` documents.
    """
    if count >= len(scores):
        raise UsageError(
            f"--drop-top {count} leaves none of the {len(scores)} documents; give fewer"
        )
    chosen = np.sort(np.argsort(scores, kind="stable")[:count])
    name = f"top{count}-{attribution}-query{query}"
    return Subset(name, f"drop-top {count}", tuple(chosen.tolist()))

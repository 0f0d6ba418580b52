"""Metasmoothness: whether the trained parameters are a smooth function of the data weights.

The *empirical metasmoothness* of REPLAY (arXiv 2503.13751, section 3, definition 2): with the
trained parameters θ(w), a direction v and a length h,

    S = Σ sign(θ(w+hv) − θ(w)) · sign(θ(w+2hv) − θ(w+hv)) · d / Σ d,   d = |θ(w+2hv) − θ(w)|

in −1 … 1: 1 if every parameter keeps moving in its first direction, −1 if every one reverses. v
removes the weight of a subset of the documents and h is half of it, so that w+2hv leaves the subset
out, as a prediction does. Three trainings are needed.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.attribution.prepared_run import PreparedRun
from engine.evaluation.retraining import Retrainer, retrain, weights_without
from engine.evaluation.subsets import NOTHING, Subset
from engine.replay.ranks import Ranks
from engine.replay.replay import Observer
from engine.replay.state import Params
from engine.runs.checksummed import read_record, write_record
from engine.runs.run_folder import RunFolder

TRAININGS = 2
"""Further trainings; the first of the three is the run's own."""


def metasmoothness(first: Params, half: Params, last: Params, ranks: Ranks) -> float:
    """S of the parameters at w, w+hv and w+2hv.

    Args:
        first: the parameters at w; each rank has a shard of them.
        half: at w+hv.
        last: at w+2hv.
        ranks: the ranks that share the parameters.
    """
    parts = sum(_parts(first[name], half[name], last[name]) for name in first)
    signed, moved = ranks.sum(torch.as_tensor(parts)).tolist()
    return signed / moved if moved else 1.0


def measure_metasmoothness(
    folder: RunFolder,
    job: PreparedRun,
    retrainer: Retrainer,
    subset: Subset,
    observers: Iterator[Observer],
) -> None:
    """Train with half of a subset's weight and without it, and store S, unless it is stored.

    The record has ``metasmoothness``, ``subset``, and ``measurements``: by attribution, φ of every
    query at the three weights, (3, query).
    """
    if job.trainer.ranks.all_gather(is_measured(folder))[0]:
        return
    weights = weights_without(subset, job.documents)
    first = retrainer.state(NOTHING)
    half = retrain(job, (1.0 + weights) / 2.0, next(observers))
    last = retrain(job, weights, next(observers))
    value = metasmoothness(first.params, half.params, last.params, job.trainer.ranks.shard_group)
    measured = [retrainer.measure(state) for state in (first, half, last)]
    if job.trainer.ranks.index == 0:
        by_attribution = {name: [each[name] for each in measured] for name in measured[0]}
        facts = {"metasmoothness": value, "subset": subset.name, "measurements": by_attribution}
        write_record(folder.metasmoothness_file, facts)


def is_measured(folder: RunFolder) -> bool:
    """Whether the metasmoothness is stored."""
    return read_record(folder.metasmoothness_file) is not None


def _parts(first: Tensor, half: Tensor, last: Tensor) -> Tensor:
    """(2,) Numerator and denominator of S for one parameter tensor."""
    moved = (last.double() - first.double()).abs()
    signs = torch.sign(half.double() - first.double()) * torch.sign(last.double() - half.double())
    return torch.stack([(signs * moved).sum(), moved.sum()])

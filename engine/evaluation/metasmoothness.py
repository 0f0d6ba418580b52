"""Whether training answers smoothly when data weights change, from three trainings.

The *empirical metasmoothness* of REPLAY (arXiv 2503.13751, section 3, definition 2): with the
trained parameters θ(w), a direction v and a length h,

    S = Σ sign(θ(w+hv) − θ(w)) · sign(θ(w+2hv) − θ(w+hv)) · d / Σ d,   d = |θ(w+2hv) − θ(w)|

in −1 … 1: whether most of what moves goes on in the direction in which it set out. v takes weight
off a subset of the documents and h is half of it, so that w+2hv leaves the subset out: what a
prediction is about.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from engine.attribution.prepared_run import PreparedRun
from engine.evaluation.retraining import Retrainer, retrained, without
from engine.evaluation.subsets import NOTHING, Subset
from engine.replay.ranks import Ranks
from engine.replay.replay import Observer
from engine.replay.state import Params
from engine.runs.checksummed import read_record, write_record
from engine.runs.run_folder import RunFolder

TRAININGS = 2
"""The third is the run's own."""


def metasmoothness(first: Params, half: Params, last: Params, ranks: Ranks) -> float:
    """S of the parameters at w, w+hv and w+2hv, of which each of the ranks holds its share."""
    parts = sum(_parts(first[name], half[name], last[name]) for name in first)
    agreed, moved = ranks.sum(torch.as_tensor(parts)).tolist()
    return agreed / moved if moved else 1.0


def measure_metasmoothness(
    folder: RunFolder,
    job: PreparedRun,
    retrainer: Retrainer,
    subset: Subset,
    observers: Iterator[Observer],
) -> None:
    """Train with half of a subset's weight and without it, and record what that says.

    The record is ``metasmoothness`` with the ``subset``, and by attribution φ of every query at the
    three weights. Nothing is done if it is there.
    """
    if job.trainer.ranks.all_gather(is_probed(folder))[0]:
        return
    weights = without(subset, job.documents)
    first = retrainer.state(NOTHING)
    half = retrained(job, (1.0 + weights) / 2.0, next(observers))
    last = retrained(job, weights, next(observers))
    found = metasmoothness(first.params, half.params, last.params, job.trainer.ranks.shard_group)
    measured = [retrainer.measure(state) for state in (first, half, last)]
    if job.trainer.ranks.index == 0:
        by_attribution = {name: [each[name] for each in measured] for name in measured[0]}
        facts = {"metasmoothness": found, "subset": subset.name, "measurements": by_attribution}
        write_record(folder.metasmoothness_file, facts)


def is_probed(folder: RunFolder) -> bool:
    """Whether smoothness was measured already."""
    return read_record(folder.metasmoothness_file) is not None


def _parts(first: Tensor, half: Tensor, last: Tensor) -> Tensor:
    """(2,) The numerator and the denominator of S over one parameter."""
    moved = (last.double() - first.double()).abs()
    signs = torch.sign(half.double() - first.double()) * torch.sign(last.double() - half.double())
    return torch.stack([(signs * moved).sum(), moved.sum()])

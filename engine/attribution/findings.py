"""Findings: problems of a training or a replay whose numbers are all finite.

They are derived from the losses of the steps and from the completion record of a replay. Each
becomes a ``warning`` event. Findings of the training are stored in the run's ``findings.json``,
those of a replay in the attribution's ``complete.json``; status, top and the verdict read them.
"""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.attribution.prepared_run import PreparedRun
from engine.attribution.reporting import Reporter
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import RunError
from engine.runs.events import Event
from engine.runs.run_folder import RunFolder

NEAR = 40
"""A step's loss is compared with those of this many steps near it, at least half as many."""
JUMP, NOISE, SHARE = 4.0, 10.0, 0.25
"""A jump is a rise of the loss that exceeds JUMP times the largest rise near it, NOISE times the
median change near it, and SHARE of the initial loss. Differences between batches make the loss rise
and fall at every step, but no such rise in 40 is 4 times the largest other and 10 times the median.
"""
MOST_JUMPS = 3
"""Jumps reported per training."""
FEW = 3
"""Losses at each end of a short training that are compared."""
DIVERGED, WILD = 2.0, 3.0
"""The training diverged if the median loss at the end exceeds DIVERGED times that at the start, or
if every loss at the end exceeds WILD times the first loss."""
GROWTH = 1e5
"""Growth of a cotangent's norm from which the derivative is useless. Adapters that start at 0 reach
1e4 with exact and useful scores; trainings that explode reach 1e6 and more."""
ABSURD = 10.0
"""A score may be at most this many times its query's loss: no document can change a loss by much
more than its size."""
ROUNDED = 0.01
"""The expected relative rounding error of scores from which a warning is written."""


@dataclass(frozen=True)
class Finding:
    """One problem, in a sentence."""

    kind: str
    """``jump``, ``diverged``, ``eps_root`` of a training; ``rounding``, ``exploded``, ``absurd``,
    ``zero`` of a replay."""
    step: int | None
    message: str


class LossMonitor:
    """Finds jumps and divergence in the losses of a training."""

    def __init__(self) -> None:
        """Start without losses."""
        self._losses: list[float] = []
        self._first = 0
        self._jumps = 0
        self._diverged = False

    def add(self, step: int, loss: float) -> list[Finding]:
        """Add the loss of the next step; returns new findings. Known steps are ignored."""
        place = step - self._first
        if place < len(self._losses):
            return []
        if place > len(self._losses):
            self._losses, self._first = [], step
        self._losses.append(loss)
        count, least = len(self._losses), NEAR // 2
        # The first losses are compared with those after them, once there are enough.
        places = range(1, count) if count == least + 1 else range(max(count - 1, least + 1), count)
        findings = [finding for place in places for finding in self._jump(place)]
        if count >= 3 * least and not self._diverged:
            findings += self._divergence(NEAR, least)
        return findings

    def finish(self) -> list[Finding]:
        """Findings at the end of a training that was too short for :meth:`add`."""
        count = len(self._losses)
        if count < 2 * FEW or self._diverged:
            return []
        window = max(FEW, min(NEAR, count // 5))
        return list(self._divergence(window, window))

    def _jump(self, place: int) -> Iterator[Finding]:
        near = range(max(1, place - NEAR), min(len(self._losses), place + NEAR // 2))
        rises = [self._losses[i] - self._losses[i - 1] for i in near if i != place]
        # The trend of a falling loss is not noise.
        trend = statistics.median(rises)
        noise = statistics.median(abs(rise - trend) for rise in rises)
        before, loss = self._losses[place - 1 : place + 1]
        level = abs(statistics.median(self._losses[:5]))
        if loss - before <= max(JUMP * max(0.0, *rises), NOISE * noise, SHARE * level):
            return
        self._jumps += 1
        if self._jumps <= MOST_JUMPS:
            yield Finding(
                "jump",
                self._first + place,
                f"the loss jumped from {before:.3g} to {loss:.3g} at step {self._first + place}: "
                "scores are derivatives of a training that left its course there; lower "
                "training.optimizer.learning_rate or set training.max_grad_norm",
            )

    def _divergence(self, last: int, first: int) -> Iterator[Finding]:
        ended = self._losses[-last:]
        began, now = statistics.median(self._losses[:first]), statistics.median(ended)
        if min(ended) > WILD * self._losses[0] > 0:
            # It diverged within the first losses.
            began = self._losses[0]
        elif last < NEAR and max(self._losses[:first]) >= min(ended):
            # The difference of so few losses may be chance.
            return
        if now <= began + (DIVERGED - 1) * abs(began):
            return
        self._diverged = True
        step = self._first + len(self._losses) - 1
        yield Finding(
            "diverged",
            step,
            f"the training diverged, though every number is finite: its loss began at about "
            f"{began:.3g} and is about {now:.3g} at step {step}; lower "
            "training.optimizer.learning_rate",
        )


class TrainingMonitor:
    """The observer of a training: writes its events, and a warning for each finding."""

    def __init__(self, folder: RunFolder, report: Reporter) -> None:
        """Read the losses of earlier attempts; only rank 0 writes findings."""
        self._folder = folder
        self._report = report
        self._monitor = LossMonitor()
        self._writes = report.journal is not None
        if self._writes:
            with contextlib.suppress(RunError, OSError):
                for event in folder.events():
                    if event.get("event") == Event.TRAIN_STEP:
                        self._monitor.add(event["step"], event["loss"])

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Write one event, and warnings for new findings."""
        self._report(event, **facts)
        if event == Event.TRAIN_STEP:
            self._add(self._monitor.add(facts["step"], facts["loss"]))

    def finish(self) -> None:
        """Write the findings of the whole training."""
        self._add(self._monitor.finish())

    def _add(self, findings: Sequence[Finding]) -> None:
        if findings and self._writes:
            add_findings(self._folder, self._report, findings)


def add_findings(folder: RunFolder, report: Reporter, findings: Sequence[Finding]) -> None:
    """Write findings of a training as warnings and into ``findings.json``, each once."""
    known: list[dict[str, Any]] = []
    with contextlib.suppress(RunError):
        known = (read_record(folder.findings_file) or {}).get("findings", [])
    fresh = [asdict(finding) for finding in findings if asdict(finding) not in known]
    for finding in fresh:
        report(Event.WARNING, message=finding["message"])
    if fresh:
        write_record(folder.findings_file, {"findings": [*known, *fresh]})


def flat_start(prepared: PreparedRun) -> list[Finding]:
    """A finding if Adam's first step is not differentiable, from the gradient of step 0.

    With ``eps_root`` 0, √v̂ is differentiated at v̂ = 0 for every parameter whose gradient is 0.
    """
    optimizer = prepared.config.training.optimizer
    if optimizer.name == "sgd" or optimizer.eps_root > 0:
        return []
    trainer = prepared.trainer
    batch = prepared.stream(prepared.config.attribution.granularity).batch(0, trainer.dtype)
    _, grads = trainer.step.gradient(prepared.start, batch)
    own = {name: int((grad == 0).sum()) for name, grad in grads.params.items()}
    shards = trainer.ranks.all_gather(own)[: trainer.ranks.shard_group.count]
    zeros = {name: sum(shard[name] for shard in shards) for name in own}
    total = sum(zeros.values())
    if not total:
        return []
    name = next(name for name, count in zeros.items() if count)
    return [
        Finding(
            "eps_root",
            0,
            f"training.optimizer.eps_root is 0, and the gradient of {total:,} parameters begins "
            f"at 0 (the first in {name}): there Adam's step has no finite derivative, and a replay "
            "will end with an error; set eps_root to 1e-8",
        )
    ]


def replay_findings(
    rounding: Sequence[float | None],
    cotangents: dict[str, Any],
    sizes: Sequence[tuple[float, float]],
) -> list[Finding]:
    """Findings about the scores of an attribution.

    Args:
        rounding: by query, the expected relative error; None where all scores are 0.
        cotangents: the facts of :func:`engine.replay.rounding.growth`.
        sizes: by query, its largest document score and its larger loss.
    """
    findings = []
    zero = [query for query, error in enumerate(rounding) if error is None]
    if zero:
        findings.append(Finding("zero", None, f"all scores of {_queries(zero)} are 0"))
    if cotangents["growth"] >= GROWTH:
        findings.append(
            Finding(
                "exploded",
                cotangents["step"],
                f"the gradient of the loss of query {cotangents['query']} grew "
                f"{cotangents['growth']:.1e} times in the replay, to its most "
                f"at step {cotangents['step']}: training is not smooth in its data weights; raise "
                "training.optimizer.eps_root or lower learning_rate",
            )
        )
    absurd = [q for q, (score, loss) in enumerate(sizes) if score > ABSURD * loss > 0]
    if absurd:
        score, loss = sizes[absurd[0]]
        findings.append(
            Finding(
                "absurd",
                None,
                f"scores of {_queries(absurd)} are far larger than any change that documents can "
                f"make ({score:.2g}; the loss is {loss:.2g})",
            )
        )
    errors = [error or 0.0 for error in rounding]
    if max(errors, default=0.0) >= ROUNDED:
        findings.append(Finding("rounding", None, _rounding(errors)))
    return findings


def _rounding(errors: Sequence[float]) -> str:
    off = [query for query, error in enumerate(errors) if error >= ROUNDED]
    worst = max(errors)
    size = "as much as their size" if worst >= 1 else f"about {100 * worst:.2g} % of their size"
    return (
        f"rounding puts the scores of {_queries(off)} off by {size}, by an estimate; train in "
        "model.dtype: float64, raise training.optimizer.eps_root or lower learning_rate"
    )


def _queries(which: Sequence[int]) -> str:
    if len(which) == 1:
        return f"query {which[0]}"
    more = ", …" if len(which) > 5 else ""
    return f"queries {', '.join(map(str, which[:5]))}{more}"

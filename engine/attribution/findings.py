"""What is wrong with a training or a replay though every number in it is finite.

One place decides it, from the losses of the steps and the facts of a replay. A finding becomes a
``warning`` event at once. Those of the training are kept in the run's ``findings.json``, those of a
replay in the attribution's ``complete.json``: status, top and the verdict read them there.
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
"""Steps whose losses a step's is compared with; half as many are the least."""
JUMP, NOISE, SHARE = 4.0, 10.0, 0.25
"""A jump is a rise by more than so many times the largest rise near it, than so many times what
losses near it mostly change by, and than this share of the loss that training began with. Batches
that differ make the loss rise and fall all the time, but of 40 such rises none is four times the
others and ten times most."""
MOST_JUMPS = 3
FEW = 3
"""Losses at either end that tell how a short training went."""
DIVERGED, WILD = 2.0, 3.0
"""Times its first level that a loss reaches only where training undoes what the model knew; and
times the very first loss that all of the last ones do not exceed by chance."""
GROWTH = 1e5
"""Growth of a cotangent from which its query's loss has no useful slope: adapters that start at 0
come to 1e4 with exact and useful scores, trainings that explode to 1e6 and more."""
ABSURD = 10.0
"""Times its query's loss that a score may be: no document can change a loss by more than there is
of it, nor training by much more than it did."""
ROUNDED = 0.01
"""Relative error from rounding from which scores are warned of."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, in a sentence."""

    kind: str
    """``jump``, ``diverged``, ``eps_root``; of a replay ``rounding``, ``exploded``, ``absurd``,
    ``zero``."""
    step: int | None
    message: str


class LossMonitor:
    """Hears the loss of every step, in order."""

    def __init__(self) -> None:
        """Nothing was heard yet."""
        self._losses: list[float] = []
        self._first = 0
        self._jumps = 0
        self._diverged = False

    def take(self, step: int, loss: float) -> list[Finding]:
        """What the loss of a step shows; steps heard before are passed over."""
        place = step - self._first
        if place < len(self._losses):
            return []
        if place > len(self._losses):
            self._losses, self._first = [], step
        self._losses.append(loss)
        count, least = len(self._losses), NEAR // 2
        # The first ones are compared with those after them.
        places = range(1, count) if count == least + 1 else range(max(count - 1, least + 1), count)
        found = [finding for place in places for finding in self._jump(place)]
        if count >= 3 * least and not self._diverged:
            found += self._divergence(NEAR, least)
        return found

    def finish(self) -> list[Finding]:
        """What the losses show at the end of training, be it a short one."""
        count = len(self._losses)
        if count < 2 * FEW or self._diverged:
            return []
        window = max(FEW, min(NEAR, count // 5))
        return list(self._divergence(window, window))

    def _jump(self, place: int) -> Iterator[Finding]:
        near = range(max(1, place - NEAR), min(len(self._losses), place + NEAR // 2))
        rises = [self._losses[i] - self._losses[i - 1] for i in near if i != place]
        # A fall is no noise.
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
                "scores are derivatives of a training that broke off its course there; lower "
                "training.optimizer.learning_rate or set training.max_grad_norm",
            )

    def _divergence(self, last: int, first: int) -> Iterator[Finding]:
        ended = self._losses[-last:]
        began, now = statistics.median(self._losses[:first]), statistics.median(ended)
        if min(ended) > WILD * self._losses[0] > 0:
            # It went off within the first of them.
            began = self._losses[0]
        elif last < NEAR and max(self._losses[:first]) >= min(ended):
            # So few of them differ by chance.
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
    """The observer of a training that writes events and what they show."""

    def __init__(self, folder: RunFolder, report: Reporter) -> None:
        """Go on with what earlier attempts found; only the first rank has a journal to write."""
        self._folder = folder
        self._report = report
        self._watch = LossMonitor()
        self._writes = report.journal is not None
        if self._writes:
            with contextlib.suppress(RunError, OSError):
                for event in folder.events():
                    if event.get("event") == Event.TRAIN_STEP:
                        self._watch.take(event["step"], event["loss"])

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Write one event, and a warning for what it shows."""
        self._report(event, **facts)
        if event == Event.TRAIN_STEP:
            self._add(self._watch.take(facts["step"], facts["loss"]))

    def finish(self) -> None:
        """The training is over."""
        self._add(self._watch.finish())

    def _add(self, findings: Sequence[Finding]) -> None:
        if findings and self._writes:
            add_findings(self._folder, self._report, findings)


def add_findings(folder: RunFolder, report: Reporter, findings: Sequence[Finding]) -> None:
    """Warn of what is wrong with a training, and keep it; what is known is passed over."""
    known: list[dict[str, Any]] = []
    with contextlib.suppress(RunError):
        known = (read_record(folder.findings_file) or {}).get("findings", [])
    fresh = [asdict(finding) for finding in findings if asdict(finding) not in known]
    for finding in fresh:
        report(Event.WARNING, message=finding["message"])
    if fresh:
        write_record(folder.findings_file, {"findings": [*known, *fresh]})


def flat_start(prepared: PreparedRun) -> list[Finding]:
    """Whether Adam's step has no derivative where training begins; one gradient tells.

    With ``eps_root`` 0 the square root of a second moment is differentiated, at 0 for every
    parameter whose gradient is 0.
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
    """What is wrong with the scores of an attribution.

    Args:
        rounding: by query, the relative error to expect; None where all scores are 0.
        cotangents: :func:`engine.replay.rounding.growth`.
        sizes: by query, its largest document score and its largest loss, before or after.
    """
    found = []
    zero = [query for query, error in enumerate(rounding) if error is None]
    if zero:
        found.append(Finding("zero", None, f"all scores of {_queries(zero)} are 0"))
    if cotangents["growth"] >= GROWTH:
        found.append(
            Finding(
                "exploded",
                cotangents["step"],
                f"the gradient of the loss of query {cotangents['query']} grew "
                f"{cotangents['growth']:.1e} times on its way back through training, to its most "
                f"at step {cotangents['step']}: training does not answer its data smoothly; raise "
                "training.optimizer.eps_root or lower learning_rate",
            )
        )
    absurd = [q for q, (score, loss) in enumerate(sizes) if score > ABSURD * loss > 0]
    if absurd:
        score, loss = sizes[absurd[0]]
        found.append(
            Finding(
                "absurd",
                None,
                f"scores of {_queries(absurd)} are far larger than any change that documents can "
                f"make ({score:.2g} where the loss is {loss:.2g})",
            )
        )
    errors = [error or 0.0 for error in rounding]
    if max(errors, default=0.0) >= ROUNDED:
        found.append(Finding("rounding", None, _rounding(errors)))
    return found


def _rounding(errors: Sequence[float]) -> str:
    off = [query for query, error in enumerate(errors) if error >= ROUNDED]
    worst = max(errors)
    size = "as much as they are large" if worst >= 1 else f"about {100 * worst:.2g} % of their size"
    return (
        f"rounding puts the scores of {_queries(off)} off by {size}, by an estimate; train in "
        "model.dtype: float64, raise training.optimizer.eps_root or lower learning_rate"
    )


def _queries(which: Sequence[int]) -> str:
    if len(which) == 1:
        return f"query {which[0]}"
    more = ", …" if len(which) > 5 else ""
    return f"queries {', '.join(map(str, which[:5]))}{more}"

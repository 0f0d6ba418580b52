"""Whether to believe an attribution's scores: one function from facts to a verdict.

An LDS measures what scores are for, and decides where there is one. Smoothness and agreement are
signs of it that cost less, and speak only where there is none; but scores that other rounding
changes altogether are none, whatever was measured of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

TRUSTED, DOUBTFUL = 0.8, 0.5
"""Mean LDS from which scores are trusted, and under which they are not to be believed."""
FEWEST = 5
"""Retrained subsets without which an LDS says nothing."""
SMOOTH, ROUGH = 0.8, 0.5
"""Metasmoothness from which nothing is said against scores, and under which they are not to be
believed: a tenth, and a quarter, of all movement of the weights turns back on the way."""
STRAIGHT = 0.6
"""How alike the two halves of φ's way must be. Of a pretrained model of 15 M parameters they were
0.2 and 0.4 alike where the LDS was 0.58 and 0.04, and 0.8 or more where it was 0.74 to 0.96."""
AGREED, APART = 0.99, 0.9
"""Correlation of two replays that differ in rounding: the same from the first, useless below."""
ROUNDED, LOST = 0.01, 0.3
"""Estimated relative error from rounding from which scores are doubtful, and not to be believed."""
_BROKEN = {
    "exploded": "exploding gradient",
    "absurd": "exploding gradient",
    "diverged": "training diverged",
    "zero": "scores are 0",
}
"""Findings of a training or a replay that leave nothing to believe, unless an LDS is known."""


@dataclass(frozen=True)
class Facts:
    """What is known of an attribution and its training; None where nothing was measured."""

    lds: float | None = None
    """Mean over queries of the rank correlation of predicted and actual over the subsets of one
    kind: of several, the lowest; may be no number."""
    lds_of: str = ""
    """Which kind, as in ``at 5 %``."""
    subsets: int = 0
    """Retrained subsets that it rests on."""
    unmoved: int = 0
    """Queries whose φ came out the same whatever was left out; they have no part in the LDS."""
    smoothness: float | None = None
    straightness: float | None = None
    """How alike the changes of φ are when half of a subset's weight goes, and then the rest: 1 if
    they are the same, 0 if one half does it all or they are opposed."""
    agreement: float | None = None
    """Lowest correlation over queries with a replay in other micro-batches."""
    reproduced: bool | None = None
    """Whether the last training step, taken again, gave the same bits."""
    rounding: float | None = None
    """Largest estimate over queries of the scores' relative error from rounding."""
    findings: tuple[tuple[str, str], ...] = ()
    """What is wrong with the training and the replay, though finite: its kind, and a sentence."""
    derivative: str = ""
    """What is wrong with the derivatives that the scores are made of, if it was forced."""
    optimizer: str = "adamw"
    eps_root: float = 1e-8
    dtype: str = "float32"
    forced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What the head of every screen says, why, and what to do."""

    sign: str
    """``✓``, ``!``, ``✗`` or ``○``."""
    words: str
    style: str
    reason: str = ""
    remedy: str = ""
    """What would make it better; nothing where that is not known or not needed."""


def verdict_facts(verdict: Verdict) -> dict[str, str]:
    """The same as JSON-ready values."""
    names = ("sign", "words", "reason", "remedy")
    return {name: getattr(verdict, name) for name in names}


def judge(facts: Facts) -> Verdict:
    """The verdict: the worst of what is known, measured predictions before signs of them."""
    if facts.derivative:
        return _not_to_be_trusted("wrong derivatives", facts.derivative, facts)
    if facts.agreement is not None and facts.agreement < APART:
        return _not_to_be_trusted(
            "rounding",
            f"a replay that differs in rounding alone gave other scores (correlation "
            f"{facts.agreement:.2f})",
            facts,
        )
    if facts.rounding is not None and facts.rounding > LOST:
        return _not_to_be_trusted("rounding", _rounding(facts.rounding), facts)
    if facts.subsets >= FEWEST and facts.lds is not None and not math.isnan(facts.lds):
        return _of_lds(facts.lds, facts)
    for kind, sentence in facts.findings:
        if kind in _BROKEN:
            return _not_to_be_trusted(_BROKEN[kind], sentence, facts)
    if facts.smoothness is not None and facts.smoothness < ROUGH:
        return _not_to_be_trusted("rough training", _smoothness(facts.smoothness), facts)
    if facts.smoothness is not None and facts.smoothness < SMOOTH:
        return _doubtful("rough training", _smoothness(facts.smoothness), facts)
    if facts.straightness is not None and facts.straightness < STRAIGHT:
        reason = (
            f"φ does not follow a straight line when a subset's weight goes: its two halves are "
            f"{facts.straightness:.2f} of 1 alike"
        )
        return _doubtful("rough training", reason, facts)
    if facts.rounding is not None and facts.rounding > ROUNDED:
        return _doubtful("rounding", _rounding(facts.rounding), facts)
    for kind, sentence in facts.findings:
        if kind == "jump":
            return _doubtful("the loss jumped", sentence, facts)
    if facts.agreement is not None and facts.agreement < AGREED:
        reason = f"rounding changes the scores (correlation {facts.agreement:.3f} of two replays)"
        return _doubtful("rounding", reason, facts)
    if facts.reproduced is False:
        reason = (
            "the last training step, taken again, did not come out the same, and no retraining "
            "has checked the scores"
        )
        return Verdict("!", "not reproduced", "bold", reason)
    if facts.subsets:
        reason = f"{FEWEST} retrained subsets are the least to judge by"
        return Verdict("!", f"{facts.subsets} retrained", "bold", reason, "magic validate")
    return _not_validated(facts)


def _of_lds(lds: float, facts: Facts) -> Verdict:
    words = f"LDS {lds:.2f} {facts.lds_of}".strip()
    if lds >= TRUSTED and facts.unmoved:
        which = "one query" if facts.unmoved == 1 else f"{facts.unmoved} queries"
        reason = f"φ of {which} came out the same whatever was left out: rounding may hide it"
        return _doubtful(words, reason, facts)
    if lds >= TRUSTED:
        reason = f"predictions rank {facts.subsets} retrained subsets much as they came out"
        if facts.rounding is not None and facts.rounding > ROUNDED:
            return _doubtful(words, f"{reason}, but {_rounding(facts.rounding)}", facts)
        return Verdict("✓", f"trusted, {words}", "bold", reason)
    if lds >= DOUBTFUL:
        reason = f"predictions rank {facts.subsets} retrained subsets only roughly"
        return _doubtful(words, reason, facts)
    reason = f"predictions hardly rank {facts.subsets} retrained subsets"
    return _not_to_be_trusted(words, reason, facts)


def _not_validated(facts: Facts) -> Verdict:
    probes = ["the scores are exact derivatives"]
    if facts.smoothness is not None:
        probes.append(f"training answers smoothly ({facts.smoothness:.2f})")
    if facts.agreement is not None:
        probes.append(f"rounding does not change them ({facts.agreement:.4f})")
    reason = (
        f"nobody has left documents out, trained again and compared: {', '.join(probes)}, but how "
        " far they predict such changes is not known"
    )
    return Verdict("○", "not validated", "dim", reason, "magic validate")


def _doubtful(words: str, reason: str, facts: Facts) -> Verdict:
    return Verdict("!", f"doubtful, {words}", "bold", reason, _remedy(facts))


def _not_to_be_trusted(words: str, reason: str, facts: Facts) -> Verdict:
    reason += ": do not believe the scores"
    return Verdict("✗", f"don't trust, {words}", "bold reverse", reason, _remedy(facts))


def _rounding(error: float) -> str:
    """Nobody computed it: it is estimated from how the cotangent grew."""
    size = "as much as they are large" if error >= 1 else f"about {100 * error:.2g} % of their size"
    return f"rounding in training and replay puts the scores off by {size}, by an estimate"


def _smoothness(value: float) -> str:
    return f"training does not answer changed weights smoothly (metasmoothness {value:.2f} of 1)"


def _remedy(facts: Facts) -> str:
    """What most likely is to blame, first; the run has to be trained again but for the first."""
    return "; ".join(_remedies(facts))


def _remedies(facts: Facts) -> Iterator[str]:
    if facts.derivative:
        yield "train without force: [derivative]"
        return
    if facts.dtype == "bfloat16":
        yield "train in model.dtype: float32"
    if "dropout" in facts.forced:
        yield "train with model.dropout: 0"
    if facts.optimizer != "sgd" and facts.eps_root < 1e-6:
        higher = 1e-8 if facts.eps_root == 0 else 10 * facts.eps_root
        yield f"raise eps_root (it is {facts.eps_root:g}; try {higher:.0e})"
    yield "lower the learning rate or raise batch_size, and train again"

"""Whether an attribution's scores can be trusted: one function from measured facts to a verdict.

The LDS measures the purpose of scores, so a known LDS decides. Metasmoothness, linearity and
numerical agreement are cheaper indicators that count only when there is no LDS. One exception: when
another rounding changes the scores altogether, they are not trusted whatever their LDS.

Imports neither numpy nor torch.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TRUSTED, DOUBTFUL = 0.8, 0.5
"""Scores are trusted from the first mean LDS and rejected below the second."""
FEWEST_SUBSETS = 5
"""With fewer retrained subsets an LDS is not judged."""
SMOOTH, ROUGH = 0.8, 0.5
"""Scores are doubtful below the first metasmoothness and rejected below the second. At 0.8 a tenth
of the parameters' movement reverses direction, at 0.5 a quarter."""
LINEAR = 0.6
"""Scores are doubtful below this linearity. For a pretrained model of 15 M parameters linearity was
0.2 and 0.4 where the LDS was 0.58 and 0.04, and 0.8 or more where the LDS was 0.74 to 0.96."""
AGREED, DISAGREED = 0.99, 0.9
"""Scores are doubtful below the first correlation of two replays that differ in rounding, and
rejected below the second."""
ROUNDED, LOST = 0.01, 0.3
"""Scores are doubtful above the first estimated relative rounding error and rejected above the
second."""
_BROKEN = {
    "exploded": "exploding gradient",
    "absurd": "exploding gradient",
    "diverged": "training diverged",
    "zero": "scores are 0",
}
"""Findings in the training or the replay that reject the scores unless an LDS is known."""


@dataclass(frozen=True)
class Facts:
    """What was measured of an attribution and its training; None where nothing was measured."""

    lds: float | None = None
    """Mean LDS over queries, for the kind of subset whose LDS is lowest; may be NaN."""
    lds_label: str = ""
    """The kind in words, as in ``at 5 %``."""
    subsets: int = 0
    """Retrained subsets behind the LDS."""
    constant_queries: int = 0
    """Queries whose φ was the same in every retraining. They have no LDS."""
    metasmoothness: float | None = None
    linearity: float | None = None
    """How equal the changes of φ are when the first and the second half of a subset's weight is
    removed: 1 if equal, 0 if one half causes all of the change or the two are opposed."""
    numerical_agreement: float | None = None
    """Lowest correlation over queries with a replay in other micro-batches."""
    reproduced: bool | None = None
    """Whether repeating the last training step gave the same bits."""
    rounding: float | None = None
    """Largest estimate over queries of the scores' relative rounding error."""
    findings: tuple[tuple[str, str], ...] = ()
    """Problems of the training and the replay: the kind, and a sentence."""
    derivative: str = ""
    """Why the derivatives are wrong, if the run was forced to use them."""
    optimizer: str = "adamw"
    eps_root: float = 1e-8
    dtype: str = "float32"
    forced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The judgement of an attribution, its reason and what may improve the scores."""

    symbol: str
    """``✓`` trusted, ``!`` doubtful, ``✗`` not to be trusted, ``○`` not validated."""
    words: str
    style: str
    """Style of the words on a terminal."""
    reason: str = ""
    remedy: str = ""
    """What may improve the scores; empty if that is unknown or not needed."""


def verdict(facts: Facts | None = None, /, **measured: Any) -> Verdict:
    """Judge scores by the worst of what was measured; an LDS overrides its cheaper indicators.

    Args:
        facts: what was measured.
        measured: the fields of :class:`Facts` by keyword, in place of ``facts``.

    Example:
        >>> verdict(lds=0.93, subsets=20).words
        'trusted, LDS 0.93'
    """
    facts = Facts(**measured) if facts is None else facts
    return (
        _of_unusable_numbers(facts)
        or _of_lds(facts)
        or _of_broken_training(facts)
        or _of_indicators(facts)
        or _unknown(facts)
    )


def verdict_facts(judged: Verdict) -> dict[str, str]:
    """A verdict as JSON-ready values."""
    return {name: getattr(judged, name) for name in ("symbol", "words", "reason", "remedy")}


def kind_text(kind: str) -> str:
    """The subsets of an LDS in words, to follow its number: ``at 5 %`` for ``drop 0.05``."""
    name, _, value = kind.rpartition(" ")
    if name == "drop":
        with contextlib.suppress(ValueError):
            return f"at {100 * float(value):g} %"
    if name == "drop-top":
        return f"without the {value} most helpful"
    return {"": "", "leave-one-out": "of single documents"}.get(kind, f"of {kind}")


def drop_kind(share: float) -> str:
    """The kind of random subsets of a share of the documents."""
    return f"drop {share:g}"


def _of_unusable_numbers(facts: Facts) -> Verdict | None:
    if facts.derivative:
        return _rejected("wrong derivatives", facts.derivative, facts)
    agreement = facts.numerical_agreement
    if agreement is not None and agreement < DISAGREED:
        reason = (
            f"a replay that differs only in rounding gave other scores (correlation "
            f"{agreement:.2f})"
        )
        return _rejected("rounding", reason, facts)
    if facts.rounding is not None and facts.rounding > LOST:
        return _rejected("rounding", _rounding(facts.rounding), facts)
    return None


def _of_lds(facts: Facts) -> Verdict | None:
    lds = facts.lds
    if facts.subsets < FEWEST_SUBSETS or lds is None or math.isnan(lds):
        return None
    words = f"LDS {lds:.2f} {facts.lds_label}".strip()
    subsets = f"{facts.subsets} retrained subsets"
    if lds < DOUBTFUL:
        return _rejected(words, f"predictions hardly rank {subsets}", facts)
    if lds < TRUSTED:
        return _doubtful(words, f"predictions rank {subsets} only roughly", facts)
    if facts.constant_queries:
        count = facts.constant_queries
        which = "one query" if count == 1 else f"{count} queries"
        reason = f"φ of {which} was the same in every retraining: rounding may hide the changes"
        return _doubtful(words, reason, facts)
    reason = f"predictions rank {subsets} nearly as the retrainings do"
    if facts.rounding is not None and facts.rounding > ROUNDED:
        return _doubtful(words, f"{reason}, but {_rounding(facts.rounding)}", facts)
    return Verdict("✓", f"trusted, {words}", "bold", reason)


def _of_broken_training(facts: Facts) -> Verdict | None:
    for kind, sentence in facts.findings:
        if kind in _BROKEN:
            return _rejected(_BROKEN[kind], sentence, facts)
    return None


def _of_indicators(facts: Facts) -> Verdict | None:
    smooth, agreement = facts.metasmoothness, facts.numerical_agreement
    if smooth is not None and smooth < SMOOTH:
        reason = (
            f"φ is not a smooth function of the data weights (metasmoothness {smooth:.2f} of 1)"
        )
        judge = _rejected if smooth < ROUGH else _doubtful
        return judge("rough training", reason, facts)
    if facts.linearity is not None and facts.linearity < LINEAR:
        reason = (
            "φ is not linear in a subset's weight: the changes over the two halves of the weight "
            f"are unequal (linearity {facts.linearity:.2f} of 1)"
        )
        return _doubtful("rough training", reason, facts)
    if facts.rounding is not None and facts.rounding > ROUNDED:
        return _doubtful("rounding", _rounding(facts.rounding), facts)
    for kind, sentence in facts.findings:
        if kind == "jump":
            return _doubtful("the loss jumped", sentence, facts)
    if agreement is not None and agreement < AGREED:
        reason = f"rounding changes the scores (correlation {agreement:.3f} of two replays)"
        return _doubtful("rounding", reason, facts)
    return None


def _unknown(facts: Facts) -> Verdict:
    if facts.reproduced is False:
        reason = (
            "repeating the last training step gave other bits, and no retraining has checked the "
            "scores"
        )
        return Verdict("!", "not reproduced", "bold", reason)
    if facts.subsets:
        reason = f"an LDS needs at least {FEWEST_SUBSETS} retrained subsets"
        return Verdict("!", f"{facts.subsets} retrained", "bold", reason, "run `magic validate`")
    known = []
    if facts.metasmoothness is not None:
        known.append(f"metasmoothness {facts.metasmoothness:.2f}")
    if facts.numerical_agreement is not None:
        known.append(f"numerical agreement {facts.numerical_agreement:.4f}")
    reason = "no retraining has been compared with the predictions; run `magic validate`"
    reason += f" ({', '.join(known)})" if known else ""
    return Verdict("○", "not validated", "dim", reason)


def _doubtful(words: str, reason: str, facts: Facts) -> Verdict:
    return Verdict("!", f"doubtful, {words}", "bold", reason, "; ".join(_remedies(facts)))


def _rejected(words: str, reason: str, facts: Facts) -> Verdict:
    reason += ": do not trust the scores"
    remedy = "; ".join(_remedies(facts))
    return Verdict("✗", f"don't trust, {words}", "bold reverse", reason, remedy)


def _rounding(error: float) -> str:
    """What rounding does to the scores, estimated from the growth of the cotangent."""
    size = "as much as their size" if error >= 1 else f"about {100 * error:.2g} % of their size"
    return f"rounding in training and replay changes the scores by {size} (an estimate)"


def _remedies(facts: Facts) -> Iterator[str]:
    """What may improve the scores, the most likely cause first."""
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

"""One function from facts to a verdict, its reason and its remedy."""

from dataclasses import replace

import pytest

from engine.evaluation.verdict import Facts, judge

GOOD = Facts(lds=0.95, subsets=20, smoothness=0.97, agreement=0.99999, reproduced=True)


@pytest.mark.parametrize(
    ("facts", "sign", "word"),
    [
        (GOOD, "✓", "LDS 0.95"),
        (replace(GOOD, lds=0.7), "!", "LDS 0.70"),
        (replace(GOOD, lds=0.2), "✗", "LDS 0.20"),
        # Queries of which nothing was seen are not covered by what was seen of others.
        (replace(GOOD, unmoved=2), "!", "LDS 0.95"),
        # A good LDS does not stand against scores that are rounding.
        (replace(GOOD, agreement=0.4), "✗", "rounding"),
        # Nor do signs stand against what was measured.
        (replace(GOOD, smoothness=0.1, agreement=0.95), "✓", "LDS 0.95"),
        (replace(GOOD, subsets=4), "!", "4 retrained"),
        (replace(GOOD, lds=float("nan"), smoothness=0.2), "✗", "rough training"),
        (Facts(smoothness=0.7), "!", "rough training"),
        (Facts(smoothness=0.97, straightness=0.2), "!", "rough training"),
        (Facts(agreement=0.95, smoothness=0.9), "!", "rounding"),
        (replace(GOOD, lds_of="at 5 %"), "✓", "trusted, LDS 0.95 at 5 %"),
        # Estimated rounding: nothing below a percent, doubtful above, and nothing to believe.
        (replace(GOOD, rounding=0.009), "✓", "LDS 0.95"),
        (replace(GOOD, rounding=0.02), "!", "LDS 0.95"),
        (replace(GOOD, rounding=0.4), "✗", "rounding"),
        (Facts(rounding=0.009), "○", "not validated"),
        (Facts(rounding=0.02), "!", "rounding"),
        (Facts(rounding=0.4), "✗", "rounding"),
        (Facts(findings=(("jump", "it jumped"),)), "!", "the loss jumped"),
        (Facts(findings=(("eps_root", "it is 0"),)), "○", "not validated"),
        (Facts(findings=(("jump", "j"), ("diverged", "it diverged"))), "✗", "training diverged"),
        (Facts(findings=(("exploded", "it grew"),)), "✗", "exploding gradient"),
        (Facts(findings=(("absurd", "too large"),), smoothness=0.9), "✗", "exploding gradient"),
        (Facts(findings=(("zero", "all are 0"),)), "✗", "scores are 0"),
        # What was measured speaks louder.
        (replace(GOOD, findings=(("exploded", "it grew"),)), "✓", "LDS 0.95"),
        (Facts(reproduced=False), "!", "not reproduced"),
        (Facts(smoothness=0.9, agreement=1.0), "○", "not validated"),
        (Facts(), "○", "not validated"),
    ],
)
def test_the_worst_of_what_is_known(facts: Facts, sign: str, word: str) -> None:
    verdict = judge(facts)
    assert verdict.sign == sign and word in verdict.words and verdict.reason
    assert bool(verdict.remedy) == (sign not in "✓" and word != "not reproduced")


@pytest.mark.parametrize(
    ("facts", "first"),
    [
        (Facts(eps_root=0.0), "raise eps_root (it is 0; try 1e-08)"),
        (Facts(eps_root=1e-8), "raise eps_root (it is 1e-08; try 1e-07)"),
        (Facts(eps_root=1e-5), "lower the learning rate or raise batch_size"),
        (Facts(optimizer="sgd"), "lower the learning rate or raise batch_size"),
        (Facts(dtype="bfloat16", forced=("bfloat16",)), "train in model.dtype: float32"),
        (Facts(forced=("dropout",)), "train with model.dropout: 0"),
    ],
)
def test_the_remedy_begins_with_what_most_likely_is_to_blame(facts: Facts, first: str) -> None:
    assert judge(replace(facts, lds=0.1, subsets=20)).remedy.startswith(first)

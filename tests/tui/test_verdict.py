"""The verdict: the worst of the known facts, its reason and its remedy."""

from dataclasses import replace

import pytest

from engine.evaluation.verdict import Facts, verdict

GOOD = Facts(
    lds=0.95, subsets=20, metasmoothness=0.97, numerical_agreement=0.99999, reproduced=True
)


@pytest.mark.parametrize(
    ("facts", "symbol", "word"),
    [
        (GOOD, "✓", "LDS 0.95"),
        (replace(GOOD, lds=0.7), "!", "LDS 0.70"),
        (replace(GOOD, lds=0.2), "✗", "LDS 0.20"),
        # Queries whose φ never changed have no LDS of their own.
        (replace(GOOD, constant_queries=2), "!", "LDS 0.95"),
        # A good LDS does not excuse scores that are rounding.
        (replace(GOOD, numerical_agreement=0.4), "✗", "rounding"),
        # A measured LDS overrides its cheaper indicators.
        (replace(GOOD, metasmoothness=0.1, numerical_agreement=0.95), "✓", "LDS 0.95"),
        (replace(GOOD, subsets=4), "!", "4 retrained"),
        (replace(GOOD, lds=float("nan"), metasmoothness=0.2), "✗", "rough training"),
        (Facts(metasmoothness=0.7), "!", "rough training"),
        (Facts(metasmoothness=0.97, linearity=0.2), "!", "rough training"),
        (Facts(numerical_agreement=0.95, metasmoothness=0.9), "!", "rounding"),
        (replace(GOOD, lds_label="at 5 %"), "✓", "trusted, LDS 0.95 at 5 %"),
        # Estimated rounding: accepted below 1 %, doubtful above, rejected above 30 %.
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
        (Facts(findings=(("absurd", "too large"),), metasmoothness=0.9), "✗", "exploding gradient"),
        (Facts(findings=(("zero", "all are 0"),)), "✗", "scores are 0"),
        # A measured LDS overrides findings.
        (replace(GOOD, findings=(("exploded", "it grew"),)), "✓", "LDS 0.95"),
        (Facts(reproduced=False), "!", "not reproduced"),
        (Facts(metasmoothness=0.9, numerical_agreement=1.0), "○", "not validated"),
        (Facts(), "○", "not validated"),
    ],
)
def test_worst_fact_decides(facts: Facts, symbol: str, word: str) -> None:
    judged = verdict(facts)
    assert judged.symbol == symbol and word in judged.words and judged.reason
    assert bool(judged.remedy) == (symbol not in "✓○" and word != "not reproduced")


def test_facts_by_keyword_and_the_sentence_for_scores_that_are_not_validated() -> None:
    assert verdict(lds=0.95, subsets=20) == verdict(Facts(lds=0.95, subsets=20))
    judged = verdict()
    assert f"{judged.words}: {judged.reason}" == (
        "not validated: no retraining has been compared with the predictions; run `magic validate`"
    )
    assert verdict(metasmoothness=0.9).reason.endswith("(metasmoothness 0.90)")
    with pytest.raises(TypeError, match="smoothnes"):
        verdict(smoothnes=0.9)


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
def test_remedy_names_the_likeliest_cause_first(facts: Facts, first: str) -> None:
    assert verdict(replace(facts, lds=0.1, subsets=20)).remedy.startswith(first)

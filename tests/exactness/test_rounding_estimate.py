"""The estimate of rounding is within a factor of ten of the truth: float32 against float64."""

import pytest

from tests.exactness.rounding_cases import CASES, Case, estimated_and_true

SMALL = [case for case in CASES if case.is_small]
QUICKEST = "adapters, adamw 0.01, eps_root 1e-12, 40 steps"


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[] if case.name == QUICKEST else pytest.mark.slow)
        for case in SMALL
    ],
)
def test_within_a_factor_of_ten(case: Case) -> None:
    estimated, true = estimated_and_true(case)
    assert true / 10 <= estimated <= 10 * true, f"estimated {estimated:.1e}, true {true:.1e}"

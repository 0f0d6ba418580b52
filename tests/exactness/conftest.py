"""One thread, and a check that notes how far off the scores are."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.conftest import LARGEST_ERROR

torch.set_num_threads(1)

Agree = Callable[[str, Tensor, Tensor, float], None]


@pytest.fixture
def agree(record_property: Callable[[str, object], None]) -> Agree:
    """``agree(group, ours, exact, bound)``: every row of ours is within a relative error."""

    def check(group: str, ours: Tensor, expected: Tensor, bound: float) -> None:
        assert ours.shape == expected.shape
        scale = expected.flatten(1).norm(dim=1)
        assert (scale > 0).all(), "a test against nothing proves nothing"
        error = ((ours - expected).flatten(1).norm(dim=1) / scale).max().item()
        record_property(LARGEST_ERROR, (group, error, bound))
        assert error <= bound, f"{group}: relative error {error:.2e}"

    return check

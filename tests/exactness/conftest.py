"""One thread, and a table of the largest errors at the end."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)
_GROUP = "largest relative error"

Agree = Callable[[str, Tensor, Tensor, float], None]


@pytest.fixture
def agree(record_property: Callable[[str, object], None]) -> Agree:
    """``agree(group, ours, exact, bound)``: every row of ours is within a relative error."""

    def check(group: str, ours: Tensor, expected: Tensor, bound: float) -> None:
        assert ours.shape == expected.shape
        scale = expected.flatten(1).norm(dim=1)
        assert (scale > 0).all(), "a test against nothing proves nothing"
        error = ((ours - expected).flatten(1).norm(dim=1) / scale).max().item()
        record_property(_GROUP, (group, error, bound))
        assert error <= bound, f"{group}: relative error {error:.2e}"

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the largest error of every group, and the number of comparisons."""
    largest: dict[str, tuple[float, float, int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            for name, value in report.user_properties:
                if name == _GROUP:
                    group, error, bound = value
                    before, _, count = largest.get(group, (0.0, 0.0, 0))
                    largest[group] = (max(before, error), bound, count + 1)
    if not largest:
        return
    terminalreporter.section("largest relative errors of scores")
    width = max(map(len, largest))
    for group, (error, bound, count) in sorted(largest.items()):
        terminalreporter.line(f"{group:<{width}}  {error:.1e}  (≤ {bound:.0e}, {count} compared)")

"""A table of the largest errors of scores, and process settings that every test restores."""

import os
from collections.abc import Iterator

import pytest

LARGEST_ERROR = "largest relative error"
"""The property in which a test records (group, error, bound)."""


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """Verbs called in this very process make their files private: that must not reach others."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the largest error of every group, and the number of comparisons."""
    largest: dict[str, tuple[float, float, int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            for name, value in report.user_properties:
                if name == LARGEST_ERROR:
                    group, error, bound = value
                    before, _, count = largest.get(group, (0.0, 0.0, 0))
                    largest[group] = (max(before, error), bound, count + 1)
    if not largest:
        return
    terminalreporter.section("largest relative errors of scores")
    width = max(map(len, largest))
    for group, (error, bound, count) in sorted(largest.items()):
        terminalreporter.line(f"{group:<{width}}  {error:.1e}  (≤ {bound:.0e}, {count} compared)")

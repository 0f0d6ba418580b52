"""A second try for tests that race the clock; a table of the largest errors of scores."""

import os
from collections.abc import Iterator

import pytest

WAITING = ("cli", "daemon", "daemon_http", "tui")
"""Where sockets and screens are waited for."""
COMPARING = (
    *("crash/test_processes.py", "sharding/test_worker_on_ranks.py"),
    "validation/test_on_cluster.py",
)
"""Where processes are waited for, and numbers compared: what differs is never tried again."""
LARGEST_ERROR = "largest relative error"
"""The property under which a test notes (group, error, bound)."""


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """Verbs called in this very process make their files private: that must not reach others."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A machine may be busy for longer than a test waits: once more, and the summary says so."""
    again = pytest.mark.flaky(reruns=1)
    if_late = pytest.mark.flaky(reruns=1, rerun_except=["AssertionError"])
    for item in items:
        for places, marker in ((WAITING, again), (COMPARING, if_late)):
            if any(item.path.is_relative_to(config.rootpath / "tests" / p) for p in places):
                item.add_marker(marker)


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

"""A second try for tests that race the clock; a table of the largest errors of scores."""

import pytest

AGAINST_THE_CLOCK = (
    *("cli", "daemon", "daemon_http", "tui", "crash/test_processes.py"),
    *("sharding/test_worker_on_ranks.py", "validation/test_on_cluster.py"),
)
"""Where real processes, sockets and screens are waited for. What compares numbers is elsewhere."""
LARGEST_ERROR = "largest relative error"
"""The property under which a test notes (group, error, bound)."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A machine may be busy for longer than a test waits: once more, and the summary says so."""
    places = [config.rootpath / "tests" / place for place in AGAINST_THE_CLOCK]
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker(pytest.mark.flaky(reruns=1))


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

"""The pool of ranks lives as long as the test session."""

from collections.abc import Iterator

import pytest

from tests.distributed.processes import POOL


@pytest.fixture(scope="session", autouse=True)
def close_pool() -> Iterator[None]:
    yield
    POOL.close()

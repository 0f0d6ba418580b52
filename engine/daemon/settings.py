"""Settings of the engine, from environment variables."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from engine.runs.errors import UsageError

GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class Settings:
    """Settings of an engine, read once at its start."""

    disk_floor: int = GIGABYTE
    """Bytes that must be free on the disk of a run for an attempt to start."""
    cpu_runs: int = 1
    """How many runs without a GPU may work at the same time."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read $MAGIC_DISK_FLOOR_GB and $MAGIC_CPU_RUNS.

        Raises:
            UsageError: if a variable is not a number in its range.
        """
        floor = environment.get("MAGIC_DISK_FLOOR_GB") or "1.0"
        runs = environment.get("MAGIC_CPU_RUNS") or "1"
        try:
            gigabytes = float(floor)
        except ValueError:
            gigabytes = math.nan
        if not 0 <= gigabytes < math.inf:
            raise UsageError(
                f"MAGIC_DISK_FLOOR_GB is {floor!r}; give gigabytes as a number, such as 1.0"
            )
        if not (runs.isascii() and runs.isdigit() and int(runs) > 0):
            raise UsageError(f"MAGIC_CPU_RUNS is {runs!r}; give a number of at least 1")
        return cls(int(gigabytes * GIGABYTE), int(runs))

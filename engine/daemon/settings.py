"""What the user sets for the engine through the environment."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from engine.runs.errors import UsageError

GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class Settings:
    """Settings of an engine; read once, when it starts."""

    disk_floor: int = GIGABYTE
    """No attempt starts while fewer bytes are free on the disk of its run."""
    cpu_runs: int = 1
    """How many runs may work at once without a GPU."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read $MAGIC_DISK_FLOOR_GB and $MAGIC_CPU_RUNS.

        Raises:
            UsageError: naming the variable that is no such number.
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

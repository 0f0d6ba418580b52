"""The measurements of each side: seconds of its phases, and the GPU's peak memory."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Marks:
    """Named points in time of a process: wall-clock and processor seconds."""

    moments: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, name: str) -> None:
        self.moments.setdefault(name, (time.perf_counter(), time.process_time()))


def write_measured(out: Path, marks: Marks, scores: Any, device: str) -> None:
    """Write the measurements, and the scores (query, row, token) in the order of training."""
    import torch

    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    (out / "measured.json").write_text(json.dumps({"moments": marks.moments, "cuda_peak": peak}))
    np.save(out / "scores.npy", np.asarray(scores, dtype=np.float64))

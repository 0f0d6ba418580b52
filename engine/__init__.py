"""Exact training-data attribution: train, keep the trajectory, replay a query's gradient.

The names below load torch only when they are first asked for, so that the command line and
the daemon can import :mod:`engine` for its contract alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.data.examples import Examples as Examples
    from engine.models.causal_lm_loss import CausalLMLoss as CausalLMLoss
    from engine.models.causal_lm_loss import weighted_causal_lm_ce as weighted_causal_lm_ce
    from engine.tasks.task import ExampleTask as ExampleTask
    from engine.training.data_stream import DataStream as DataStream
    from engine.training.loop import TrainControl as TrainControl
    from engine.training.trainer import Scores as Scores
    from engine.training.trainer import Trainer as Trainer

_HOMES = {
    "Trainer": "engine.training.trainer",
    "Scores": "engine.training.trainer",
    "TrainControl": "engine.training.loop",
    "DataStream": "engine.training.data_stream",
    "ExampleTask": "engine.tasks.task",
    "Examples": "engine.data.examples",
    "CausalLMLoss": "engine.models.causal_lm_loss",
    "weighted_causal_lm_ce": "engine.models.causal_lm_loss",
}

__all__ = [
    "CausalLMLoss",
    "DataStream",
    "ExampleTask",
    "Examples",
    "Scores",
    "TrainControl",
    "Trainer",
    "weighted_causal_lm_ce",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""Exact training-data attribution: train, record every step, differentiate a query's loss back.

Training and attribution: :class:`Trainer`, :class:`DataStream`, :class:`ExampleTask`. Reading a
finished run and judging its scores, without torch: :func:`open_run`, :func:`lds`, :func:`verdict`.

Names are loaded on first use, so that importing :mod:`engine` loads neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.data.examples import Examples as Examples
    from engine.evaluation.finished_run import FinishedRun as FinishedRun
    from engine.evaluation.finished_run import open_run as open_run
    from engine.evaluation.lds import Lds as Lds
    from engine.evaluation.lds import lds as lds
    from engine.evaluation.verdict import Verdict as Verdict
    from engine.evaluation.verdict import verdict as verdict
    from engine.models.causal_lm_loss import CausalLMLoss as CausalLMLoss
    from engine.models.causal_lm_loss import weighted_causal_lm_ce as weighted_causal_lm_ce
    from engine.tasks.task import ExampleTask as ExampleTask
    from engine.training.data_stream import DataStream as DataStream
    from engine.training.loop import TrainControl as TrainControl
    from engine.training.trainer import Scores as Scores
    from engine.training.trainer import Trainer as Trainer

_MODULES = {
    "CausalLMLoss": "engine.models.causal_lm_loss",
    "DataStream": "engine.training.data_stream",
    "ExampleTask": "engine.tasks.task",
    "Examples": "engine.data.examples",
    "FinishedRun": "engine.evaluation.finished_run",
    "Lds": "engine.evaluation.lds",
    "Scores": "engine.training.trainer",
    "TrainControl": "engine.training.loop",
    "Trainer": "engine.training.trainer",
    "Verdict": "engine.evaluation.verdict",
    "lds": "engine.evaluation.lds",
    "open_run": "engine.evaluation.finished_run",
    "verdict": "engine.evaluation.verdict",
    "weighted_causal_lm_ce": "engine.models.causal_lm_loss",
}

__all__ = [
    "CausalLMLoss",
    "DataStream",
    "ExampleTask",
    "Examples",
    "FinishedRun",
    "Lds",
    "Scores",
    "TrainControl",
    "Trainer",
    "Verdict",
    "lds",
    "open_run",
    "verdict",
    "weighted_causal_lm_ce",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

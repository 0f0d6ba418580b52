"""How far the retrainings of a bank are, as events, not more than one a second."""

import time
from typing import Any

from engine.attribution.reporting import Reporter
from engine.evaluation.retraining import Retrained
from engine.evaluation.subsets import NOTHING, Subset
from engine.replay.replay import Observer, null_observer
from engine.runs.events import Event

_TELL_SECONDS = 1.0


class Pace:
    """Tells what is behind."""

    def __init__(self, report: Reporter, done: int, steps: int) -> None:
        """``done`` steps of all are behind; each retraining takes ``steps``."""
        self._report, self._behind, self._steps = report, done, steps
        self._told = time.monotonic()

    def observer(self, subset: Subset) -> Observer:
        """What listens to one training; that without nothing is none of those counted."""
        if subset == NOTHING:
            return null_observer

        def observe(event: str, /, **facts: Any) -> None:
            if event == "train_step" and time.monotonic() - self._told >= _TELL_SECONDS:
                step = int(facts["step"])
                told = {"subset": subset.name, "step": step, "loss": facts["loss"]}
                done = self._behind + step + 1
                self._report(Event.RETRAIN_STEP, **told, done=done, seconds=self._since())

        return observe

    def retrained(self, each: Retrained) -> None:
        """One more is behind."""
        self._behind += self._steps
        self._report(
            Event.RETRAINED,
            subset=each.subset.name,
            kind=each.subset.kind,
            documents=len(each.subset.documents),
            done=self._behind,
            seconds=self._since(),
        )

    def probe(self, event: str, /, **facts: Any) -> None:
        """Listen to a replay that checks another one."""
        if event == "replay_step":
            self._behind += 1
            told = {"step": facts["step"], "done": self._behind}
            self._report(Event.PROBE_STEP, **told, seconds=self._since())

    def _since(self) -> float:
        now, before = time.monotonic(), self._told
        self._told = now
        return now - before

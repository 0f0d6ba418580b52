"""What removing a run or its trajectory deletes, shown before confirmation."""

import contextlib
import json
from pathlib import Path
from typing import Any

from engine.runs.atomic import size_on_disk
from engine.runs.events import Event
from engine.runs.run_folder import RunFolder
from engine.runs.states import View
from magic_tui.text.numbers import bytes_text, count_text, counted, duration_text

_STEPS = {
    Event.TRAIN_STEP: "training",
    Event.REPLAY_STEP: "replay",
    Event.REBUILD_STEP: "replay",
    Event.RETRAIN_STEP: "validation",
    Event.RETRAINED: "validation",
    Event.PROBE_STEP: "validation",
}
"""Events with a duration, and the work they belong to."""


def removal_facts(run: View, trajectory: bool) -> dict[str, Any]:
    """Sizes, steps and computing time that a removal loses, as JSON-ready values."""
    folder = RunFolder(Path(run["path"]))
    seconds = _seconds(folder.events_file)
    size = size_on_disk(folder.trajectory)
    facts: dict[str, Any] = {
        "trajectory_bytes": size,
        "trained_steps": run["steps"] if size else 0,
        "training_seconds": seconds["training"] if size else 0.0,
    }
    if trajectory:
        return facts
    return facts | {
        "bytes": size_on_disk(folder.path),
        "attributions": run["attributions"],
        "replay_seconds": seconds["replay"],
        "retrainings": _lines(folder.retrainings_file),
        "validation_seconds": seconds["validation"],
    }


def removal_lines(facts: dict[str, Any]) -> list[str]:
    """The same in words, one line per item."""
    lines = [
        f"trajectory: {bytes_text(facts['trajectory_bytes'])}, "
        f"{count_text(facts['trained_steps'])} trained steps{_took(facts['training_seconds'])}"
        if facts["trajectory_bytes"]
        else "trajectory: none"
    ]
    if "attributions" in facts:
        replay = _took(facts["replay_seconds"]) if facts["attributions"] else ""
        lines.append(f"scores: {counted(facts['attributions'], 'attribution')}{replay}")
        if facts["retrainings"]:
            checked = counted(facts["retrainings"], "retraining")
            lines.append(f"validation: {checked}{_took(facts['validation_seconds'])}")
    return lines


def _took(seconds: float) -> str:
    return f", {duration_text(seconds)} of computing" if seconds else ""


def _seconds(journal: Path) -> dict[str, float]:
    """Seconds per kind of work in a journal; damaged lines are skipped."""
    spent = dict.fromkeys(_STEPS.values(), 0.0)
    with contextlib.suppress(OSError), open(journal, "rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                record = json.loads(line)
                whose = _STEPS.get(record["event"])
                if whose is not None:
                    spent[whose] += max(0.0, float(record["seconds"]))
    return spent


def _lines(journal: Path) -> int:
    with contextlib.suppress(OSError):
        return journal.read_bytes().count(b"\n")
    return 0

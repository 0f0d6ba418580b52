"""Symbols, colours and texts for run states and phases; colour never stands alone."""

from rich.text import Text

from engine.runs.events import Phase
from engine.runs.states import RunState
from magic_tui.client.engine import UNREADABLE

_BLUE, _ORANGE = "blue", "color(172)"
SIGNS: dict[str, tuple[str, str]] = {
    RunState.QUEUED: ("○", _BLUE),
    RunState.BLOCKED: ("!", _ORANGE),
    RunState.STARTING: ("◔", _BLUE),
    RunState.RUNNING: ("▶", _BLUE),
    RunState.PAUSING: ("◑", _BLUE),
    RunState.PAUSED: ("‖", "bold"),
    RunState.CANCELLING: ("◒", _ORANGE),
    RunState.CANCELLED: ("⊘", "dim"),
    RunState.INTERRUPTED: ("◼", _ORANGE),
    RunState.SUCCEEDED: ("✓", "green"),
    RunState.FAILED: ("✗", _ORANGE),
    UNREADABLE: ("?", _ORANGE),
}
MEANINGS: dict[str, str] = {
    RunState.QUEUED: "waiting for its turn",
    RunState.BLOCKED: "waiting for disk space or a device",
    RunState.STARTING: "loading libraries",
    RunState.PAUSING: "finishing its step, then saving",
    RunState.CANCELLING: "ending without saving",
    RunState.INTERRUPTED: "its process died; it resumes from its last checkpoint",
}
"""The meaning of a state, shown if the engine gave no reason."""

PHASE_NAMES: dict[str, str] = {
    Phase.PREPARE: "preparing",
    Phase.TRAIN: "training",
    Phase.MEASURE: "measuring",
    Phase.REPLAY: "replaying",
    Phase.RETRAIN: "retraining",
    Phase.PROBE: "probing",
    Phase.SCORE: "baselines",
}


def sign(state: str) -> Text:
    """The symbol of a state in its colour, and a space."""
    symbol, style = SIGNS.get(state, SIGNS[UNREADABLE])
    return Text(no_wrap=True).append(f"{symbol} ", style)

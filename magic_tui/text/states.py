"""A sign and a colour for every state of a run: neither alone has to be told apart."""

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
    RunState.QUEUED: "it waits for its turn",
    RunState.BLOCKED: "it waits for disk or for a device",
    RunState.STARTING: "its process loads its libraries",
    RunState.PAUSING: "it finishes its step and saves",
    RunState.CANCELLING: "it ends without saving",
    RunState.INTERRUPTED: "its process died; it goes on from what it saved",
}
"""What is going on, where nobody gave a reason."""

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
    """The sign of a state in its colour, and a space."""
    shown, style = SIGNS.get(state, SIGNS[UNREADABLE])
    return Text(no_wrap=True).append(f"{shown} ", style)

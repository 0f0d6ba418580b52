"""What a run does at one moment, in two lines."""

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from engine.runs.events import Phase
from engine.runs.safe_text import one_line
from engine.runs.states import RunState, View
from magic_tui.client.engine import UNREADABLE, standing
from magic_tui.runs.status_lines import phase_facts
from magic_tui.text.cells import fit, join_that_fit, wrap
from magic_tui.text.numbers import duration_text, loss_text, pace_text
from magic_tui.text.states import MEANINGS, PHASE_NAMES, sign

if TYPE_CHECKING:
    from magic_tui.live.run_history import Snapshot

_STEPPED = (Phase.TRAIN, Phase.REPLAY)
"""Phases whose steps the strip shows."""
_NAME_WIDTH = 24
_MOST_LINES = 2


def now_lines(moment: "Snapshot", run: View | None, width: int) -> list[Text]:
    """State and phase, then how long steps take and what waits; at most four lines.

    Without ``run`` only what the journal says of that moment.
    """
    if run is None:
        lines = [Text("◷ ", no_wrap=True).append(_moment_words(moment))]
    else:
        lines = _state_lines(moment, run, width)
    paces = [f"{name} {pace_text(s)}" for name, s in moment.seconds.items()]
    waiting = _waiting(run) if run is not None else []
    return [*lines, Text(join_that_fit([*waiting, *paces], width, " · "), "dim", no_wrap=True)]


def _moment_words(moment: "Snapshot") -> str:
    """What the journal says was done at a moment."""
    name = PHASE_NAMES.get(moment.phase or "", "nothing yet")
    return f"{name} {moment.done}/{moment.total}" if moment.phase in _STEPPED else name


def _facts(moment: "Snapshot", phase: View) -> list[str]:
    """What is done now: steps from the journal alone, as strip and curves show them.

    The engine read the journal at another moment; of it are the time left and other phases.
    """
    if phase["phase"] not in _STEPPED and moment.phase not in _STEPPED:
        return phase_facts(phase)
    facts = [_moment_words(moment)]
    if phase["phase"] == moment.phase and phase["remaining_seconds"] is not None:
        facts.append(f"{duration_text(phase['remaining_seconds'])} left")
    losses = moment.curves["loss"][1]
    if moment.phase == Phase.TRAIN and len(losses):
        facts.append(f"loss {loss_text(float(losses[-1]))}")
    return facts


def _state_lines(moment: "Snapshot", run: View, width: int) -> list[Text]:
    """Facts that do not fit are left out as wholes; a long sentence goes below."""
    state = str(standing(run)[0])
    head = sign(state).append(f"{fit(one_line(run['name']), _NAME_WIDTH)} ", "bold")
    room = max(8, width - head.cell_len)
    if run["phase"] is not None and state != UNREADABLE and not RunState(state).finished:
        facts = [state, *_facts(moment, run["phase"])]
        return [head.append(join_that_fit(facts, room, " · "))]
    state, words = _state_words(run)
    if cell_len(state) + cell_len(words) <= room:
        return [head.append(state + words)]
    more = wrap(words.lstrip(": "), width - 2, _MOST_LINES)
    return [head.append(state), *(Text("  " + line, no_wrap=True) for line in more)]


def _waiting(run: View) -> list[str]:
    """What waits behind the job at work."""
    jobs = [job for job in run["jobs"] if not RunState(job["state"]).settled]
    behind = [_asked(job) for job in jobs[1:] if job["attribution"] is not None]
    if not behind:
        return []
    first = "the training" if jobs[0]["attribution"] is None else _asked(jobs[0])
    return [f"{', '.join(behind)} waits behind {first}"]


def _asked(job: View) -> str:
    """A job by the attribution it makes or validates."""
    name = str(job["attribution"])
    return f"the validation of {name}" if job["work"] == "validate" else name


def _state_words(run: View) -> tuple[str, str]:
    """The state, and what is to be said about it."""
    state, reason = standing(run)
    if state == RunState.SUCCEEDED:
        last = run["job"]
        if last is not None and last["state"] == RunState.FAILED:
            what = _asked(last)
            return str(state), f"; {what} failed: {one_line(last['reason'] or 'see its log')}"
        return str(state), " · 4 shows what helped and harmed" if run["attributions"] else ""
    words = reason or MEANINGS.get(state)
    return str(state), f": {one_line(words)}" if words else ""

"""What a run does at one moment, in two lines."""

from rich.text import Text

from engine.contract.events import Phase
from engine.contract.states import RunState
from magic_tui.client.engine import UNREADABLE
from magic_tui.client.recording import Moment
from magic_tui.client.start import View
from magic_tui.render.cells import fit, join_that_fit
from magic_tui.render.numbers import pace_text
from magic_tui.render.phases import NAMES
from magic_tui.render.states import MEANINGS, sign
from magic_tui.render.status import phase_facts
from magic_tui.safe_text import one_line


def now_lines(moment: Moment, run: View | None, width: int) -> list[Text]:
    """State and phase, then how long steps take; without ``run`` what the journal says alone."""
    if run is None:
        line = Text("◷ ", no_wrap=True).append(_moment_words(moment))
    else:
        line = sign(run["state"]).append(f"{one_line(run['name'])} ", "bold")
        line.append(fit(_state_words(run), max(8, width - line.cell_len)))
    paces = [f"{name} {pace_text(s)}" for name, s in moment.seconds.items()]
    return [line, Text(join_that_fit(paces, width, " · "), "dim", no_wrap=True)]


def _moment_words(moment: Moment) -> str:
    """What the journal says was done at a moment."""
    name = NAMES.get(moment.phase or "", "nothing yet")
    if moment.phase == Phase.REPLAY and moment.cursor is not None:
        return f"{name} {moment.steps - moment.cursor}/{moment.steps}"
    return f"{name} {moment.trained}/{moment.steps}" if moment.phase == Phase.TRAIN else name


def _state_words(run: View) -> str:
    state, reason = str(run["state"]), run["reason"]
    if run["phase"] is not None and state != UNREADABLE and not RunState(state).finished:
        return " · ".join([state, *phase_facts(run["phase"])])
    if state == RunState.SUCCEEDED:
        return f"{state} · 4 shows what helped and harmed" if run["attributions"] else state
    words = reason or MEANINGS.get(state)
    return f"{state}: {one_line(words)}" if words else state

"""Why a run has no scores to show yet: one sentence, from the engine if there is one to ask."""

from engine.runs.errors import MagicError
from engine.runs.events import Phase
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import list_attributions
from engine.runs.states import RunState, View
from magic_tui.client.engine import Engine, standing
from magic_tui.client.engine_process import reach

_ASK = "3 asks it a query"
_BY_STATE: dict[str, str] = {
    RunState.QUEUED: "no scores yet: the run waits for its turn; 1 shows what comes before it",
    RunState.BLOCKED: "no scores yet: the run waits for disk or for a device; 1 shows which",
    RunState.STARTING: "no scores yet: the run is starting; 2 shows how far it is",
    RunState.PAUSING: "no scores yet: the run is about to pause; r on screen 2 lets it go on",
    RunState.PAUSED: "no scores yet: the run is paused; r on screen 2 lets it go on",
    RunState.CANCELLING: "no scores: the run is being cancelled",
    RunState.CANCELLED: f"no scores: the run was cancelled; if it was trained by then, {_ASK}",
    RunState.INTERRUPTED: "no scores yet: the run's process died; it goes on from what it saved",
    RunState.FAILED: "no scores: the run failed; 2 shows why",
    RunState.SUCCEEDED: f"no scores yet: this run was asked nothing so far; {_ASK}",
}
_LOST: dict[str, str] = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled"}
_BY_PHASE: dict[str, str] = {
    Phase.PREPARE: "its data is being prepared",
    Phase.TRAIN: "the run is being trained",
    Phase.MEASURE: "its queries are being measured",
    Phase.REPLAY: "the replay is still at work",
    Phase.RETRAIN: "another attribution is being validated",
    Phase.PROBE: "another attribution is being validated",
    Phase.SCORE: "another attribution is being validated",
}


def why_no_scores(run: RunFolder, attribution: str | None = None) -> str | None:
    """What a run without that attribution, or without any, is about; None if it is complete.

    Asks the engine only if one runs; starts none.
    """
    if not run.path.is_dir():
        return f"run {run.id} is not there any more; 1 shows the runs that are"
    complete = [folder.name for folder in list_attributions(run.attributions)]
    if attribution in complete or (attribution is None and complete):
        return None
    view = _view(run)
    if attribution is not None and complete:
        return _not_complete(attribution, view)
    if view is None:
        return f"no scores yet: the run has no complete attribution; {_ASK}"
    state = standing(view)[0]
    if state == RunState.RUNNING:
        return _at_work(view["phase"])
    last = view["job"]
    if state == RunState.SUCCEEDED and last is not None and last["state"] in _LOST:
        what = f"attribution {last['attribution']}"
        return f"no scores: {what} {_LOST[last['state']]}, 2 shows more; the run is trained, {_ASK}"
    return _BY_STATE.get(state, f"no scores yet: the run is {state}")


def _not_complete(attribution: str, view: View | None) -> str:
    """What one attribution is about, where others are complete."""
    jobs = [] if view is None else [j for j in view["jobs"] if j["attribution"] == attribution]
    others = "A shows another attribution"
    if not jobs:
        return f"attribution {attribution} has no scores; {others}"
    state = jobs[-1]["state"]
    if RunState(state).settled:
        return f"attribution {attribution} has no scores: it is {state}, 2 shows more; {others}"
    return (
        f"attribution {attribution} has no scores yet: it is {state}, and they come here by "
        f"themselves; 2 shows how far it is, {others}"
    )


def _at_work(phase: View | None) -> str:
    if phase is None:
        return _BY_STATE[RunState.STARTING]
    what = _BY_PHASE.get(phase["phase"], "the run is at work")
    done = f" ({phase['done']} of {phase['total']})" if phase["total"] else ""
    return f"no scores yet: {what}{done}; they come here by themselves, 2 shows more"


def _view(run: RunFolder) -> View | None:
    try:
        reached = reach()
        return None if reached is None else Engine(*reached, run.path.parent).run(run.id)
    except MagicError:
        return None

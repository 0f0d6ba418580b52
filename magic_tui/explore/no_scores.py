"""Why a run has no scores to show: one sentence, with the state from a running engine."""

from engine.runs.errors import MagicError
from engine.runs.events import Phase
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import list_attributions
from engine.runs.states import RunState, View
from magic_tui.client.engine import Engine, standing
from magic_tui.client.engine_process import reach

_ATTRIBUTE = "attribute a query on screen 3"
_BY_STATE: dict[str, str] = {
    RunState.QUEUED: "no scores yet: the run is queued; screen 1 shows the queue",
    RunState.BLOCKED: "no scores yet: the run waits for disk space or a device; see screen 1",
    RunState.STARTING: "no scores yet: the run is starting; screen 2 shows its progress",
    RunState.PAUSING: "no scores yet: the run is pausing; press r on screen 2 to resume it",
    RunState.PAUSED: "no scores yet: the run is paused; press r on screen 2 to resume it",
    RunState.CANCELLING: "no scores: the run is being cancelled",
    RunState.CANCELLED: f"no scores: the run was cancelled; if it is trained, {_ATTRIBUTE}",
    RunState.INTERRUPTED: "no scores yet: the run's process died; it resumes from its last save",
    RunState.FAILED: "no scores: the run failed; screen 2 shows why",
    RunState.SUCCEEDED: f"no scores yet: the run has no attribution; {_ATTRIBUTE}",
}
_LOST: dict[str, str] = {RunState.FAILED: "failed", RunState.CANCELLED: "was cancelled"}
_BY_PHASE: dict[str, str] = {
    Phase.PREPARE: "its data is being prepared",
    Phase.TRAIN: "the run is training",
    Phase.MEASURE: "its queries are being measured",
    Phase.REPLAY: "the replay is running",
    Phase.RETRAIN: "another attribution is being validated",
    Phase.PROBE: "another attribution is being validated",
    Phase.SCORE: "another attribution is being validated",
}


def why_no_scores(run: RunFolder, attribution: str | None = None) -> str | None:
    """The state of a run without that attribution, or without any; None if it is complete.

    Connects to the engine if one runs, and starts none.
    """
    if not run.path.is_dir():
        return f"run {run.id} was removed; screen 1 lists the runs"
    complete = [folder.name for folder in list_attributions(run.attributions)]
    if attribution in complete or (attribution is None and complete):
        return None
    view = _view(run)
    if attribution is not None and complete:
        return _not_complete(attribution, view)
    if view is None:
        return f"no scores yet: the run has no complete attribution; {_ATTRIBUTE}"
    state = standing(view)[0]
    if state == RunState.RUNNING:
        return _running(view["phase"])
    last = view["job"]
    if state == RunState.SUCCEEDED and last is not None and last["state"] in _LOST:
        what = f"attribution {last['attribution']} {_LOST[last['state']]}"
        return f"no scores: {what}, see screen 2; the run is trained, {_ATTRIBUTE}"
    return _BY_STATE.get(state, f"no scores yet: the run is {state}")


def _not_complete(attribution: str, view: View | None) -> str:
    """The state of one attribution, where others are complete."""
    jobs = [] if view is None else [j for j in view["jobs"] if j["attribution"] == attribution]
    others = "press A for another attribution"
    if not jobs:
        return f"attribution {attribution} has no scores; {others}"
    state = jobs[-1]["state"]
    if RunState(state).settled:
        return f"attribution {attribution} has no scores: it is {state}, see screen 2; {others}"
    return (
        f"attribution {attribution} has no scores yet: it is {state}; they appear here when it is "
        f"complete, screen 2 shows its progress, {others}"
    )


def _running(phase: View | None) -> str:
    if phase is None:
        return _BY_STATE[RunState.STARTING]
    what = _BY_PHASE.get(phase["phase"], "the run is running")
    done = f" ({phase['done']} of {phase['total']})" if phase["total"] else ""
    return f"no scores yet: {what}{done}; they appear here when complete, see screen 2"


def _view(run: RunFolder) -> View | None:
    try:
        connection = reach()
        if connection is None:
            return None
        return Engine(*connection, run.path.parent).run(run.id)
    except MagicError:
        return None

"""``magic pause``, ``magic resume`` and ``magic cancel``: request a state and wait for it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from magic_tui.cli.options import AsJson, Run, RunsDir, Timeout, Trust
from magic_tui.cli.output import narrate, print_json, reports_errors

if TYPE_CHECKING:
    from engine.runs.states import View
    from magic_tui.client.engine import RunAction

_TARGETS = {"pause": "paused", "cancel": "cancelled"}
_PROGRESS = {
    "pause": "it finishes its step and saves",
    "cancel": "it stops without saving",
    "resume": "it waits for the engine to start it",
}


@reports_errors
def pause(
    run: Run = None, timeout: Timeout = None, runs_dir: RunsDir = None, as_json: AsJson = False
) -> None:
    """Pause a run after its current step and save its state.

    magic resume continues from the saved state.
    """
    _act("pause", run, runs_dir, timeout, as_json)


@reports_errors
def resume(
    run: Run = None,
    timeout: Timeout = None,
    trust: Trust = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Resume a run from its last saved state.

    Applies to runs that are paused, cancelled or failed.
    """
    _act("resume", run, runs_dir, timeout, as_json, trust)


@reports_errors
def cancel(
    run: Run = None, timeout: Timeout = None, runs_dir: RunsDir = None, as_json: AsJson = False
) -> None:
    """Stop a run immediately, without saving.

    Earlier checkpoints stay: magic resume continues the training from them. An incomplete
    attribution is removed and starts again.
    """
    _act("cancel", run, runs_dir, timeout, as_json)


def _act(
    action: "RunAction",
    selector: str | None,
    runs_dir: Path | None,
    timeout: float | None,
    as_json: bool,
    trust: bool = False,
) -> None:
    """Request an action, wait until it is complete, and print the state of the run.

    Raises:
        RefusedError: if the action does not apply.
        UnfinishedError: if the state has not changed within ``timeout`` seconds.
    """
    from magic_tui.cli.foreign_code import accept_code
    from magic_tui.client.engine import connect, standing
    from magic_tui.client.outcome import UnfinishedError

    engine = connect(runs_dir)
    before = engine.find(selector)
    if action == "resume":
        accept_code(engine, before, trust)
    view = engine.act(before["id"], action)
    if not _is_complete(action, view):
        if sys.stderr.isatty():
            narrate(f"run {view['id']} is {standing(view)[0]}: {_PROGRESS[action]}")
        view = engine.wait_until(view["id"], lambda now: _is_complete(action, now), timeout)
    if not _is_complete(action, view):
        raise UnfinishedError(f"run {view['id']} is still {standing(view)[0]}", view)
    if as_json:
        print_json(view)
    else:
        # The job of the action: the unfinished one before it or, for resume, after it.
        job = (view if action == "resume" else before)["job"]
        typer.echo(_sentence(action, view, None if job is None else int(job["number"])))


def _is_complete(action: "RunAction", view: "View") -> bool:
    from magic_tui.client.engine import is_resting, is_settled

    return not is_resting(view) if action == "resume" else is_settled(view)


def _sentence(action: "RunAction", view: "View", number: int | None) -> str:
    from magic_tui.client.outcome import job_of, job_words

    job = job_of(view, number)
    state = view["state"] if job is None else job["state"]
    name = job_words(view, job)
    if action == "resume" or state == _TARGETS[action]:
        return f"{name} is {state}"
    return f"{name} {state} before it could be {_TARGETS[action]}"

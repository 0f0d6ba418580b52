"""Asking a run to pause, to go on or to end, and waiting until it really does."""

import sys
from pathlib import Path

import typer

from engine.runs.states import RunState, View
from magic_tui.cli.foreign_code import accept_code
from magic_tui.cli.output import narrate, print_json
from magic_tui.client.engine import RunAction, connect, is_resting, is_settled, standing
from magic_tui.client.outcome import UnfinishedError, job_of, job_words

_WANTED = {"pause": RunState.PAUSED, "cancel": RunState.CANCELLED}
_ON_THE_WAY = {
    "pause": "it finishes its step and saves",
    "cancel": "it ends without saving",
    "resume": "it waits for the engine to take it up",
}


def act(
    verb: RunAction,
    wanted: str | None,
    runs_dir: Path | None,
    timeout: float | None,
    as_json: bool,
    trust: bool = False,
) -> None:
    """Ask, wait, and say where the run stands now.

    Raises:
        RefusedError: if the action does not apply.
        UnfinishedError: if the state has not changed within ``timeout`` seconds.
    """
    engine = connect(runs_dir)
    before = engine.find(wanted)
    if verb == "resume":
        accept_code(engine, before, trust)
    view = engine.act(before["id"], verb)
    if not _is_there(verb, view):
        if sys.stderr.isatty():
            narrate(f"run {view['id']} is {standing(view)[0]}: {_ON_THE_WAY[verb]}")
        view = engine.wait_until(view["id"], lambda now: _is_there(verb, now), timeout)
    if not _is_there(verb, view):
        raise UnfinishedError(f"run {view['id']} is still {standing(view)[0]}", view)
    if as_json:
        print_json(view)
    else:
        # What it was about: the job that was unfinished, or now is again.
        job = (view if verb == "resume" else before)["job"]
        typer.echo(_sentence(verb, view, None if job is None else int(job["number"])))


def _is_there(verb: RunAction, view: View) -> bool:
    return not is_resting(view) if verb == "resume" else is_settled(view)


def _sentence(verb: RunAction, view: View, number: int | None) -> str:
    job = job_of(view, number)
    state = view["state"] if job is None else job["state"]
    what = job_words(view, job)
    if verb == "resume" or state == _WANTED[verb]:
        return f"{what} is {state}"
    done = {"pause": "paused", "cancel": "cancelled"}[verb]
    return f"{what} {state} before it could be {done}"

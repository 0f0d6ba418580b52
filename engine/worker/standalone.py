"""Working on a job without an engine: this process also records how its attempt ends."""

import os
from typing import Any

from engine.attribution.device import set_up_device
from engine.attribution.process import Stop
from engine.distributed.rank_setup import join
from engine.runs.errors import (
    DiskFullError,
    ExitCode,
    MagicError,
    RepeatingError,
    UsageError,
    unexpected,
)
from engine.runs.jobs import JobFolder, jobs_of
from engine.runs.run_folder import RunFolder
from engine.runs.states import DesiredState, Ending, RunState
from engine.worker.attempt import run_attempt


def run_standalone(job: JobFolder, stop: Stop) -> dict[str, Any]:
    """Make one attempt at a job and record how it ends; returns its facts."""
    attempt, lock = job.new_attempt()
    join(set_up_device()).all_gather(str(attempt.path))
    ending, facts, message, code = Ending.FAILED, None, None, int(ExitCode.RUN_FAILED)
    repeats = False
    try:
        facts = run_attempt(attempt, stop)
        ending, code = Ending.DONE, int(ExitCode.OK)
        return facts
    except MagicError as error:
        ending = Ending.FULL if isinstance(error, DiskFullError) else Ending.FAILED
        message, code = str(error), int(error.exit_code)
        repeats = isinstance(error, RepeatingError | UsageError)
        raise
    except Exception as error:
        message = unexpected(error)
        raise
    except KeyboardInterrupt:
        ending, message, code = Ending.STOPPED, "interrupted", int(ExitCode.INTERRUPTED)
        job.set_desired_state(DesiredState.PAUSED)
        raise
    finally:
        try:
            attempt.write_exit(
                ending, message=message, exit_code=code, repeats=repeats, facts=facts
            )
        finally:
            os.close(lock)


def unfinished_job(run: RunFolder) -> JobFolder:
    """The first job of a run that has not succeeded, set to run.

    Raises:
        UsageError: if all have succeeded, or one is running.
    """
    for job in jobs_of(run):
        state = job.state()
        if state is RunState.SUCCEEDED:
            continue
        if state.at_work:
            raise UsageError(f"run {run.id} is {state}; wait until it ends")
        job.set_desired_state(DesiredState.RUNNING)
        return job
    raise UsageError(
        f"run {run.id} has no unfinished job; attribute new queries with: magic attribute"
    )

"""Doing a job without an engine: this process is its own supervisor."""

import os
from typing import Any

from engine.attribution.device import set_up_device
from engine.attribution.stop import Stop
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
from engine.worker.run import work


def alone(job: JobFolder, stop: Stop) -> dict[str, Any]:
    """Make one attempt at a job and record how it ended; returns its facts."""
    attempt, lock = job.new_attempt()
    join(set_up_device()).all_gather(str(attempt.path))
    ending, facts, message, code = Ending.FAILED, None, None, int(ExitCode.RUN_FAILED)
    repeats = False
    try:
        facts = work(attempt, stop)
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


def unfinished(run: RunFolder) -> JobFolder:
    """The job of a run to go on with.

    Raises:
        UsageError: if all are done, or one is at work.
    """
    for job in jobs_of(run):
        state = job.state()
        if state is RunState.SUCCEEDED:
            continue
        if state.at_work:
            raise UsageError(f"run {run.id} is {state}; wait until it ends")
        job.set_desired_state(DesiredState.RUNNING)
        return job
    raise UsageError(f"run {run.id} has no unfinished job; ask something with: magic attribute")

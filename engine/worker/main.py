"""``magic-worker``: one job in one process, started by the engine, a command or torchrun.

The last line on stdout is one JSON object: ``{"ok": true, …facts}`` or
``{"ok": false, "message": …, "exit_code": …, "ending": …}``; the exit status is the same code.
All other output goes to stderr.

Jobs import torch only after their arguments are checked; ``check``, ``check-config`` and ``texts``
never do.
"""

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.attribution.process import Stop, collect_seldom, handle_signals
from engine.distributed.local_ranks import (
    clear_launcher_variables,
    is_rank,
    local_rank_count,
    run_ranks,
)
from engine.runs.environment import keep_files_private
from engine.runs.errors import (
    DiskFullError,
    ExitCode,
    LostRankError,
    MagicError,
    RepeatingError,
    UsageError,
    unexpected,
)
from engine.runs.read_config import forced_config
from engine.runs.states import Ending
from engine.worker.process import ProcessExit, end_with_parent

if TYPE_CHECKING:
    from engine.runs.jobs import JobFolder


def run() -> None:
    """The entry point of ``magic-worker``."""
    process_exit = ProcessExit()
    process_exit.code = main()


def main(arguments: list[str] | None = None) -> int:
    """Do the job of the command line and print its outcome; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    keep_files_private()
    _set_up_libraries()
    collect_seldom()
    end_with_parent()
    clear_launcher_variables()
    ranks = 1 if is_rank() else _ranks(options)
    if ranks > 1:
        return run_ranks(ranks, given)
    stop = Stop()
    handle_signals(stop)
    outcome = _outcome(options, stop)
    print(json.dumps(outcome), flush=True)
    return int(outcome.get("exit_code", ExitCode.OK))


def _outcome(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    """The outcome of a job: its facts, or its failure."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return {"ok": True, **_JOBS[options.job](options, stop)}
    except MagicError as error:
        ending = Ending.FAILED
        if isinstance(error, DiskFullError):
            ending = Ending.FULL
        elif isinstance(error, LostRankError):
            ending = Ending.DIED
        repeats = isinstance(error, RepeatingError | UsageError)
        return {**_failure(str(error), error.exit_code, ending), "repeats": repeats}
    except KeyboardInterrupt as error:
        return _failure(str(error) or "interrupted", ExitCode.INTERRUPTED, Ending.STOPPED)
    except Exception as error:
        traceback.print_exc()
        return _failure(unexpected(error), ExitCode.RUN_FAILED)


def _failure(message: str, code: ExitCode, ending: Ending = Ending.FAILED) -> dict[str, Any]:
    return {"ok": False, "message": message, "exit_code": int(code), "ending": str(ending)}


def _ranks(options: argparse.Namespace) -> int:
    """The number of ranks to start on this machine; the job itself reports faults of its config."""
    with contextlib.suppress(MagicError):
        config = None
        if options.job in ("run", "plan"):
            config = forced_config(options.config, options.force)
        elif options.job in ("attribute", "validate", "resume"):
            from engine.runs.run_folder import RunFolder

            config = RunFolder(options.run).config()
        elif options.job == "job":
            from engine.runs.jobs import AttemptFolder, JobFolder

            config = JobFolder(AttemptFolder(options.attempt).job_path).run.config()
        if config is not None:
            return local_rank_count(config.devices.ranks)
    return 1


def _set_up_libraries() -> None:
    """Environment variables that native libraries read when they load; the user's take priority."""
    # Waiting threads must not spin: with another busy process, spinning makes steps several times
    # slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Huge pages for large tensors: page faults took 1/6 of a small run's time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="magic-worker", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("job", help="work on an attempt's folder; started by the engine")
    job.add_argument("--attempt", type=Path, required=True)
    run = jobs.add_parser("run", help="train a config and attribute its queries, without an engine")
    run.add_argument("--config", type=Path, required=True)
    run.add_argument("--runs", type=Path, required=True)
    run.add_argument("--id", required=True)
    run.add_argument("--force", action="append", default=[])
    attribute = jobs.add_parser("attribute", help="attribute queries to a run, without an engine")
    attribute.add_argument("--run", type=Path, required=True)
    attribute.add_argument("--request", type=json.loads, required=True)
    validate = jobs.add_parser("validate", help="validate an attribution, without an engine")
    validate.add_argument("--run", type=Path, required=True)
    validate.add_argument("--attribution")
    validate.add_argument("--request", type=json.loads, default={})
    resume = jobs.add_parser("resume", help="resume a run's unfinished job, without an engine")
    resume.add_argument("--run", type=Path, required=True)
    plan = jobs.add_parser("plan", help="predict a config's time, memory and disk")
    plan.add_argument("--config", type=Path, required=True)
    plan.add_argument("--runs", type=Path, required=True)
    plan.add_argument("--force", action="append", default=[])
    export = jobs.add_parser("export", help="write an attribution's scores as torch tensors")
    export.add_argument("--run", type=Path, required=True)
    export.add_argument("--attribution", required=True)
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--format", choices=["pt"], default="pt")
    losses = jobs.add_parser("losses", help="compute a trained model's loss of each token of texts")
    losses.add_argument("--run", type=Path, required=True)
    losses.add_argument("--request", type=json.loads, required=True)
    check = jobs.add_parser("check", help="check a request's queries, without torch")
    check.add_argument("--run", type=Path, required=True)
    check.add_argument("--request-file", type=Path, required=True)
    config = jobs.add_parser("check-config", help="check a config's queries, without torch")
    config.add_argument("--config", type=Path, required=True)
    texts = jobs.add_parser("texts", help="read the texts of query data, without torch")
    texts.add_argument("--source", type=json.loads, required=True)
    texts.add_argument("--first", type=int, default=1000)
    return parser


def _texts(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    from engine.attribution.query_texts import source_texts
    from engine.runs.request import read_source

    return source_texts(read_source(options.source), options.first)


def _check(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    from engine.attribution.query_texts import check_queries
    from engine.runs.request import read_attribution_request
    from engine.runs.run_folder import RunFolder

    request = json.loads(options.request_file.read_bytes())
    return check_queries(RunFolder(options.run), read_attribution_request(request))


def _check_config(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    from engine.attribution.query_texts import check_config

    return check_config(forced_config(options.config, []))


def _plan(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    from engine.attribution.reporting import errors_with_remedy
    from engine.worker.plan import plan

    with errors_with_remedy():
        return plan(forced_config(options.config, options.force), options.runs)


def _losses(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    from engine.attribution.reporting import errors_with_remedy
    from engine.attribution.token_losses import token_losses
    from engine.runs.request import read_attribution_request
    from engine.runs.run_folder import RunFolder

    with errors_with_remedy():
        return token_losses(RunFolder(options.run), read_attribution_request(options.request))


def _export(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    from engine.attribution.reporting import errors_with_remedy
    from engine.runs.run_folder import RunFolder
    from engine.worker.export import export_tensors

    with errors_with_remedy():
        return export_tensors(RunFolder(options.run), options.attribution, options.out)


def _attempt(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    """One attempt at a job: the one that the engine started, or one of this process's own."""
    from engine.attribution.reporting import errors_with_remedy

    with errors_with_remedy():
        from engine.attribution.device import set_up_device
        from engine.distributed.rank_setup import join
        from engine.runs.jobs import AttemptFolder
        from engine.worker.attempt import run_attempt
        from engine.worker.standalone import run_standalone

        if options.job == "job":
            return run_attempt(AttemptFolder(options.attempt), stop)
        ranks = join(set_up_device())
        if ranks.index != 0:
            # Rank 0 creates the attempt's folder and sends its path.
            return run_attempt(AttemptFolder(Path(ranks.all_gather("")[0])), stop)
        return run_standalone(_submitted(options), stop)


def _submitted(options: argparse.Namespace) -> "JobFolder":
    """The job that the command line describes, submitted to its run's folder."""
    from engine.runs.request import read_attribution_request, read_validation
    from engine.runs.run_folder import RunFolder
    from engine.runs.submission import submit_attribution, submit_run, submit_validation
    from engine.worker.standalone import unfinished_job

    if options.job == "run":
        config = forced_config(options.config, options.force)
        return submit_run(options.runs, options.id, config)
    run = RunFolder(options.run)
    if options.job == "resume":
        return unfinished_job(run)
    if options.job == "validate":
        return submit_validation(run, options.attribution, read_validation(options.request))
    return submit_attribution(run, read_attribution_request(options.request))


_JOBS: dict[str, Callable[[argparse.Namespace, Stop], dict[str, Any]]] = {
    **dict.fromkeys(("job", "run", "attribute", "validate", "resume"), _attempt),
    "plan": _plan,
    "losses": _losses,
    "export": _export,
    "check": _check,
    "check-config": _check_config,
    "texts": _texts,
}

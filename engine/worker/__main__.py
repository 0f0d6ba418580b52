"""``python -m engine.worker``: one job in one process, for the command line and the daemon.

The last line on stdout is one JSON object: ``{"ok": true, …facts}`` or
``{"ok": false, "message": …, "exit_code": …, "ending": …}``; the exit status is the same code.
Everything else that is printed on the way goes to stderr.
"""

import argparse
import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from engine.attribution.gc_tuning import collect_seldom
from engine.attribution.stop import Stop, handle_signals
from engine.distributed.local_ranks import clear_launcher_variables, is_rank, ranks_here, run_ranks
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
from engine.worker.parent_watch import die_with_supervisor
from engine.worker.process_exit import ProcessExit


def main(arguments: list[str] | None = None) -> int:
    """Do the job of the command line and print its outcome; returns the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    keep_files_private()
    _set_up_libraries()
    collect_seldom()
    die_with_supervisor()
    clear_launcher_variables()
    ranks = 1 if is_rank() else _ranks(options)
    if ranks > 1:
        return run_ranks(ranks, given)
    stop = Stop()
    handle_signals(stop)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            facts = _work(options, stop)
        outcome: dict[str, Any] = {"ok": True, **facts}
    except MagicError as error:
        outcome = _failure(str(error), error.exit_code)
        outcome["repeats"] = isinstance(error, RepeatingError | UsageError)
        if isinstance(error, DiskFullError):
            outcome["ending"] = str(Ending.FULL)
        elif isinstance(error, LostRankError):
            outcome["ending"] = str(Ending.DIED)
    except KeyboardInterrupt as error:
        outcome = _failure(str(error) or "interrupted", ExitCode.INTERRUPTED)
        outcome["ending"] = str(Ending.STOPPED)
    except Exception as error:
        traceback.print_exc()
        outcome = _failure(unexpected(error), ExitCode.RUN_FAILED)
    print(json.dumps(outcome), flush=True)
    return int(outcome.get("exit_code", ExitCode.OK))


def _ranks(options: argparse.Namespace) -> int:
    """How many ranks of this machine a job takes; mistakes in it are for the job to tell."""
    with contextlib.suppress(MagicError):
        config = None
        if options.job in ("run", "plan"):
            config = forced_config(options.config, options.force)
        elif options.job in ("attribute", "validate", "resume"):
            from engine.runs.run_folder import RunFolder

            config = RunFolder(options.run).config()
        elif options.job == "job":
            from engine.runs.jobs import AttemptFolder, JobFolder

            job = JobFolder(AttemptFolder(options.attempt).job_path)
            config = job.run.config()
        if config is not None:
            return ranks_here(config.devices.ranks)
    return 1


def _failure(message: str, code: ExitCode) -> dict[str, Any]:
    ending = str(Ending.FAILED)
    return {"ok": False, "message": message, "exit_code": int(code), "ending": ending}


def _set_up_libraries() -> None:
    """Settings that native libraries read when they are loaded, unless the user made others."""
    # Threads that wait for each other must not spin, or another busy process on the machine
    # slows every step several times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large tensors in huge pages: fewer page faults, which took a sixth of a small run's time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.worker", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("job", help="do what a job's folder asks: what the engine starts")
    job.add_argument("--attempt", type=Path, required=True)
    run = jobs.add_parser("run", help="train a config and attribute its queries, engine or not")
    run.add_argument("--config", type=Path, required=True)
    run.add_argument("--runs", type=Path, required=True)
    run.add_argument("--id", required=True)
    run.add_argument("--force", action="append", default=[])
    attribute = jobs.add_parser("attribute", help="ask a kept trajectory something, engine or not")
    attribute.add_argument("--run", type=Path, required=True)
    attribute.add_argument("--request", type=json.loads, required=True)
    validate = jobs.add_parser("validate", help="check an attribution by retraining without some")
    validate.add_argument("--run", type=Path, required=True)
    validate.add_argument("--attribution")
    validate.add_argument("--request", type=json.loads, default={})
    resume = jobs.add_parser("resume", help="go on with a run's unfinished job, engine or not")
    resume.add_argument("--run", type=Path, required=True)
    plan = jobs.add_parser("plan", help="say what a config would take")
    plan.add_argument("--config", type=Path, required=True)
    plan.add_argument("--runs", type=Path, required=True)
    plan.add_argument("--force", action="append", default=[])
    export = jobs.add_parser("export", help="write an attribution's scores as torch tensors")
    export.add_argument("--run", type=Path, required=True)
    export.add_argument("--attribution", required=True)
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--format", choices=["pt"], default="pt")
    losses = jobs.add_parser("losses", help="say what a trained model finds hard in some texts")
    losses.add_argument("--run", type=Path, required=True)
    losses.add_argument("--request", type=json.loads, required=True)
    check = jobs.add_parser("check", help="check queries of a run; loads no torch")
    check.add_argument("--run", type=Path, required=True)
    check.add_argument("--request-file", type=Path, required=True)
    config = jobs.add_parser("check-config", help="check a config's queries; loads no torch")
    config.add_argument("--config", type=Path, required=True)
    texts = jobs.add_parser("texts", help="read the texts of query data")
    texts.add_argument("--source", type=json.loads, required=True)
    texts.add_argument("--first", type=int, default=1000)
    return parser


def _work(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    if options.job == "texts":
        return _texts(options)
    if options.job == "check":
        return _check(options)
    if options.job == "check-config":
        from engine.attribution.query_texts import check_config

        return check_config(forced_config(options.config, []))
    # Each job's modules load torch, which none of the mistakes caught above needs.
    from engine.attribution.error_reporting import explained
    from engine.runs.request import read_asked
    from engine.runs.run_folder import RunFolder

    with explained():
        if options.job in ("job", "run", "attribute", "validate", "resume"):
            return _attempt(options, stop)
        if options.job == "plan":
            from engine.worker.plan import plan

            return plan(forced_config(options.config, options.force), options.runs)
        if options.job == "losses":
            from engine.attribution.token_losses import token_losses

            return token_losses(RunFolder(options.run), read_asked(options.request))
        from engine.worker.export import export_tensors

        return export_tensors(RunFolder(options.run), options.attribution, options.out)


def _texts(options: argparse.Namespace) -> dict[str, Any]:
    from engine.attribution.query_texts import source_texts
    from engine.runs.request import read_source

    return source_texts(read_source(options.source), options.first)


def _check(options: argparse.Namespace) -> dict[str, Any]:
    from engine.attribution.query_texts import check_queries
    from engine.runs.request import read_asked
    from engine.runs.run_folder import RunFolder

    asked = json.loads(options.request_file.read_bytes())
    return check_queries(RunFolder(options.run), read_asked(asked))


def _attempt(options: argparse.Namespace, stop: Stop) -> dict[str, Any]:
    from engine.attribution.device import set_up_device
    from engine.distributed.rank_setup import join
    from engine.runs.jobs import AttemptFolder
    from engine.runs.request import read_asked, read_validation
    from engine.runs.run_folder import RunFolder
    from engine.runs.submission import submit_attribution, submit_run, submit_validation
    from engine.worker.run import work
    from engine.worker.standalone import alone, unfinished

    if options.job == "job":
        return work(AttemptFolder(options.attempt), stop)
    ranks = join(set_up_device())
    if ranks.index != 0:
        # The first rank makes the attempt; the others take part in it.
        return work(AttemptFolder(Path(ranks.all_gather("")[0])), stop)
    if options.job == "run":
        config = forced_config(options.config, options.force)
        return alone(submit_run(options.runs, options.id, config), stop)
    run = RunFolder(options.run)
    if options.job == "resume":
        return alone(unfinished(run), stop)
    if options.job == "validate":
        asked = read_validation(options.request)
        return alone(submit_validation(run, options.attribution, asked), stop)
    return alone(submit_attribution(run, read_asked(options.request)), stop)


if __name__ == "__main__":
    leaving = ProcessExit()
    leaving.code = main()

"""``python -m engine.worker``: one job in one process, for the command line and the daemon.

The last line on stdout is one JSON object: ``{"ok": true, …facts}`` or
``{"ok": false, "message": …, "exit_code": …}``; the exit status is the same code. Everything
else that is printed on the way goes to stderr.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from engine.contract.errors import ExitCode, MagicError


def main(arguments: list[str] | None = None) -> int:
    """Do the job of the command line and print its outcome; returns the exit code."""
    options = _parser().parse_args(arguments)
    _set_up_libraries()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            facts = _work(options)
        outcome: dict[str, Any] = {"ok": True, **facts}
    except MagicError as error:
        outcome = {"ok": False, "message": str(error), "exit_code": int(error.exit_code)}
    except KeyboardInterrupt:
        outcome = {
            "ok": False, "message": "interrupted", "exit_code": int(ExitCode.INTERRUPTED)
        }  # fmt: skip
    except Exception as error:
        traceback.print_exc()
        message = f"unexpected {type(error).__name__}: {error}"
        outcome = {"ok": False, "message": message, "exit_code": int(ExitCode.RUN_FAILED)}
    print(json.dumps(outcome), flush=True)
    return int(outcome.get("exit_code", ExitCode.OK))


def _set_up_libraries() -> None:
    """Settings that native libraries read when they are loaded, unless the user made others."""
    # Threads that wait for each other must not spin, or another busy process on the machine
    # slows every step several times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Large tensors in huge pages: fewer page faults, which took a sixth of a small run's time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.worker", description=__doc__)
    jobs = parser.add_subparsers(dest="job", required=True)
    run = jobs.add_parser("run", help="train a config and attribute its queries")
    run.add_argument("--config", type=Path, required=True)
    run.add_argument("--runs", type=Path, required=True)
    run.add_argument("--id", required=True)
    run.add_argument("--force", action="append", default=[])
    attribute = jobs.add_parser("attribute", help="ask queries of a kept trajectory")
    attribute.add_argument("--run", type=Path, required=True)
    attribute.add_argument("--request", type=json.loads, required=True)
    plan = jobs.add_parser("plan", help="say what a config would take")
    plan.add_argument("--config", type=Path, required=True)
    plan.add_argument("--runs", type=Path, required=True)
    plan.add_argument("--force", action="append", default=[])
    export = jobs.add_parser("export", help="write an attribution's scores as torch tensors")
    export.add_argument("--run", type=Path, required=True)
    export.add_argument("--attribution", required=True)
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--format", choices=["pt"], default="pt")
    return parser


def _work(options: argparse.Namespace) -> dict[str, Any]:
    # Each job's modules load torch, which none of the mistakes caught above needs.
    from engine.records.run_folder import RunFolder
    from engine.worker.scope import explained

    with explained():
        if options.job == "run":
            from engine.worker.run import forced_config, run

            return run(forced_config(options.config, options.force), options.runs, options.id)
        if options.job == "attribute":
            from engine.worker.run import attribute_run

            return attribute_run(RunFolder(options.run), options.request)
        if options.job == "plan":
            from engine.worker.plan import plan
            from engine.worker.run import forced_config

            return plan(forced_config(options.config, options.force), options.runs)
        from engine.worker.export import export_tensors

        return export_tensors(RunFolder(options.run), options.attribution, options.out)


if __name__ == "__main__":
    sys.exit(main())

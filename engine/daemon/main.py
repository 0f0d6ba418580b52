"""The ``magic-engine`` command: an engine in the foreground."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.daemon.log import set_up_log
from engine.runs.environment import keep_files_private, magic_version
from engine.runs.errors import MagicError
from engine.runs.paths import state_folder

_DESCRIPTION = """\
The engine of magic: it queues runs, starts and supervises their processes, and serves `magic`
at a Unix socket that only its user may open. `magic` starts it when needed; start it yourself to
run it as a service, or to read its log.

It stays in the foreground and logs to stderr. SIGTERM, SIGINT and SIGHUP stop it; running jobs
continue, and the next engine finds them."""
_EPILOG = """\
environment:
  MAGIC_STATE_DIR      its state: lock, registry, log, path of its socket
                       (default: $XDG_STATE_HOME/magic/HOSTNAME, else ~/.local/state/magic/HOSTNAME)
  MAGIC_RUNTIME_DIR    the folder of its socket
                       (default: $XDG_RUNTIME_DIR/magic, else /tmp/magic-UID)
  MAGIC_DISK_FLOOR_GB  no run starts with less free on its disk (default: 1.0)
  MAGIC_CPU_RUNS       how many runs without a GPU may work at once (default: 1)

systemd: a user service with Type=notify, ExecStart=…/magic-engine and KillMode=process, so that
runs survive a restart of it; `loginctl enable-linger` keeps it running after logout.

containers: start it as the main process, under an init that reaps processes (docker run --init),
with MAGIC_STATE_DIR and the runs on volumes. Clients need the same user and MAGIC_RUNTIME_DIR.
Runs end with the container; the next engine resumes them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the engine until it is stopped: the entry point of ``magic-engine``."""
    keep_files_private()
    set_up_log(_parser().parse_args(arguments).log)
    try:
        _run()
    except MagicError as error:
        print(f"magic-engine: {error}", file=sys.stderr)
        sys.exit(int(error.exit_code))


def _run() -> None:
    state = state_folder()
    from engine.daemon.listener import Listener, sole_engine
    from engine.daemon.settings import Settings

    with sole_engine(state):
        settings = Settings.from_environment()
        listener = Listener(state)
        # Connections made from now on wait instead of being refused.
        listening = listener.open()
        try:
            # These imports are slow.
            from engine.daemon.engine import Engine
            from engine.daemon.server import serve

            serve(Engine(state, settings), listener, listening)
        finally:
            listener.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="magic-engine",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"magic-engine {magic_version()}")
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="the file that stderr is redirected to: at 4 MB it is renamed to FILE.1",
    )
    return parser

"""The supervisor with a script in place of the rank, and short timeouts."""

import sys
from pathlib import Path

from engine.daemon import supervisor

supervisor.WORKER_COMMAND = [sys.executable, "-P", str(Path(__file__).with_name("fake_rank.py"))]
supervisor.CANCEL_SECONDS = 0.3

if __name__ == "__main__":
    sys.exit(supervisor.main(sys.argv[1:]))

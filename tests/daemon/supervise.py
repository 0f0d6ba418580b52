"""The supervisor with a small script in the rank's place, and little patience."""

import sys
from pathlib import Path

from engine.daemon import supervisor

supervisor.WORKER_COMMAND = [sys.executable, "-P", str(Path(__file__).with_name("fake_rank.py"))]
supervisor.CANCEL_SECONDS = 0.3

if __name__ == "__main__":
    sys.exit(supervisor.main(sys.argv[1:]))

"""The real engine, with a small script in the ranks' place: ``python quick_engine.py``."""

import sys
from pathlib import Path

from engine.daemon import scheduler
from engine.daemon.main import main

SUPERVISE = Path(__file__).resolve().parents[1] / "daemon" / "supervise.py"
scheduler.SUPERVISOR_COMMAND = [sys.executable, "-P", str(SUPERVISE)]

if __name__ == "__main__":
    main()

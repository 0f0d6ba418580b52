"""Supervises one attempt that fills the disk of the folder it is given; prints what it left."""

import json
import os
import subprocess
import sys
from pathlib import Path

from engine.runs.config import RunConfig
from engine.runs.environment import child_environment
from engine.runs.submission import submit_run


def main() -> None:
    config = RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}})
    environment = {"HF_FAKE_RANK": '[{"end": "fill"}]'}
    job = submit_run(Path(sys.argv[1]), "20250102T030405-abc123", config, environment)
    attempt, lock = job.new_attempt()
    subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("supervise.py")),
         str(attempt.path), str(lock)],
        pass_fds=[lock], env=child_environment(os.environ), check=True,
    )  # fmt: skip
    os.close(lock)
    print(json.dumps([attempt.exit(), job.state()]))


if __name__ == "__main__":
    main()

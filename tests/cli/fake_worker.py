"""Stands in for ``engine.worker`` in tests of planning and exporting.

``FAKE_WORKER`` says how it behaves: good, refuse, crash, killed, slow or stubborn.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    verb, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    behaviour = os.environ.get("FAKE_WORKER", "good")
    if behaviour == "refuse":
        return answer(False, message="data.path: no file x.jsonl; check the path", exit_code=2)
    if behaviour == "crash":
        print("Segmentation fault in \x1b[31mlibnoise", file=sys.stderr)
        return 7
    if behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour in ("slow", "stubborn"):
        return interrupted(behaviour == "stubborn")
    if verb in ("check", "check-config"):
        return answer(True)
    if verb == "plan":
        return answer(True, **PLAN, argv=sys.argv[1:])
    folder = Path(options["--out"])
    folder.mkdir(parents=True)
    (folder / "scores.pt").write_bytes(b"x")
    return answer(True, path=str(folder))


def interrupted(stubborn: bool) -> int:
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    Path(os.environ["FAKE_WORKER_PID"]).write_text(str(os.getpid()))
    while stubborn or not stopped:
        time.sleep(0.05)
    return answer(False, message="interrupted", exit_code=130)


def answer(ok: bool, **facts) -> int:
    print(json.dumps({"ok": ok, **facts}))
    return facts.get("exit_code", 0) if not ok else 0


PLAN = {
    "steps": 200, "rows": 400, "documents": 400, "parameters": 1_234_567, "queries": 4,
    "queries_per_pass": 4, "passes": 1, "step_seconds": 0.123,
    "schedules": [
        {
            "name": "all", "disk_bytes": 3_000_000_000, "memory_bytes": 500_000_000,
            "train_seconds": 30.0, "replay_seconds": 80.0, "fits": False,
            "shortfall": "needs 3.0 GB of disk, 2.0 GB are free",
        },
        {
            "name": "sqrt", "disk_bytes": 200_000_000, "memory_bytes": 700_000_000,
            "train_seconds": 30.0, "replay_seconds": 120.0, "fits": True, "shortfall": None,
        },
    ],
    "chosen": "sqrt", "reason": "the fastest that fits into the free disk and memory",
    "free_disk": 2_000_000_000, "free_memory": 8_000_000_000,
    "warnings": ["eps_root is 0: scores may be ill-conditioned"],
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())

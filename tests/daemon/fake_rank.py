"""Stands in for a rank: takes steps, saves, obeys signals, and ends as a test specifies.

$HF_FAKE_RANK holds one object per attempt (the last one serves all further ones) with ``steps``,
``seconds`` a step, ``wait_for`` (a file in the run's folder without which it does not end),
``deaf`` (ignores SIGINT) and ``end``.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from engine.runs.attempts import AttemptFolder
from engine.runs.journal import JournalWriter, read_journal

ATTEMPT = AttemptFolder(Path(sys.argv[1]))
RUN = ATTEMPT.path.parents[3]
signals: list[int] = []


def main() -> None:
    orders = json.loads(os.environ.get("HF_FAKE_RANK", "[{}]"))
    order = orders[min(ATTEMPT.number, len(orders)) - 1]
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
    threading.Thread(target=die_with_the_supervisor, daemon=True).start()
    print("rank", os.getpid(), "visible", os.environ.get("CUDA_VISIBLE_DEVICES"), file=sys.stderr)
    ATTEMPT.begin()
    outcome, status = work(order)
    print("something else on stdout")
    print(json.dumps(outcome), flush=True)
    sys.exit(status)


def die_with_the_supervisor() -> None:
    os.read(int(os.environ["MAGIC_SUPERVISOR_PIPE"]), 1)
    os.kill(os.getpid(), signal.SIGKILL)


def work(order: dict[str, Any]) -> tuple[dict[str, Any], int]:
    request = json.loads((ATTEMPT.job_path / "request.json").read_text())
    events = JournalWriter(RUN / "events.jsonl")
    events.append("started", pid=os.getpid(), work=request["work"], job=1, attempt=ATTEMPT.number)
    steps = order.get("steps", 2)
    training = request["work"] == "run"
    phase = "train" if training else "replay"
    events.append("phase", phase=phase, total=steps, attribution=request["attribution"])
    saved = manifest(steps) if training else partial(request["attribution"])
    first = len(read_journal(saved)) - int(training)
    if first:
        events.append("resumed", phase=phase, step=first, done=first)
    journal = JournalWriter(saved)
    for step in range(first, steps):
        if over := stop(order):
            return over
        time.sleep(order.get("seconds", 0.0))
        facts = {"step": step, "seconds": 0.5, "memory": 1000 + step}
        if training:
            events.append("train_step", loss=5.0 - step, **facts)
        else:
            events.append("replay_step", cotangent_norms=[1.0], **facts)
        if order.get("end") != "useless":
            journal.append("resume", kind="resume", step=step + 1, bytes=1)
    while not (RUN / order.get("wait_for", "")).exists():
        if over := stop(order):
            return over
        if not ATTEMPT.path.exists():
            sys.exit("nobody waits any more")
        time.sleep(0.01)
    return end(order.get("end", "done"), request, journal, events)


def stop(order: dict[str, Any]) -> tuple[dict[str, Any], int] | None:
    if signal.SIGINT in signals and order.get("deaf"):
        return None
    if signals:
        return {"ok": False, "message": "stopped", "exit_code": 130, "ending": "stopped"}, 130
    return None


def end(
    how: str, request: dict[str, Any], journal: JournalWriter, events: JournalWriter
) -> tuple[dict[str, Any], int]:
    if how == "fail at its queries" and request["work"] == "run":
        journal.append("complete")
    if how.startswith("fail"):
        message = "the loss is not finite; lower the rate"
        return {"ok": False, "message": message, "exit_code": 2, "ending": "failed"}, 2
    if how == "fill":
        with contextlib.suppress(OSError), open(RUN / "big", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1000))
    if how in ("full", "fill"):
        message = "the disk is full; free some"
        return {"ok": False, "message": message, "exit_code": 1, "ending": "full"}, 1
    if how in ("die", "useless"):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "silent":
        os._exit(7)
    if request["work"] == "run":
        journal.append("complete")
    if request["attribution"] and request["work"] != "validate":
        finish(request["attribution"])
        events.append("attributed", attribution=request["attribution"], queries=1)
    events.append("finished", work=request["work"])
    return {"ok": True, "run": RUN.name, "path": str(RUN)}, 0


def manifest(steps: int) -> Path:
    path = RUN / "trajectory" / "manifest.jsonl"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        journal = JournalWriter(path)
        journal.append("schedule", kind="all", steps=steps)
        journal.close()
    return path


def partial(attribution: str) -> Path:
    folder = RUN / "attributions" / f".{attribution}.new"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "replay.jsonl"


def finish(attribution: str) -> None:
    staging = partial(attribution).parent
    (staging / "complete.json").write_text('{"format_version": 1, "arrays": {}}')
    staging.rename(staging.with_name(attribution))


if __name__ == "__main__":
    main()

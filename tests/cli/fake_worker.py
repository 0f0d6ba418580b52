"""Stands in for ``engine.worker`` in tests: writes the events it is told to and answers.

``FAKE_WORKER`` says how it behaves: good, refuse, crash, killed, slow or stubborn.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


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
    if verb == "plan":
        return answer(True, **PLAN)
    if verb == "export":
        folder = Path(options["--out"])
        folder.mkdir(parents=True)
        (folder / "scores.pt").write_bytes(b"x")
        return answer(True, path=str(folder))
    if verb == "attribute":
        return attribute(Path(options["--run"]), options["--request"])
    return run(Path(options["--runs"]), options["--id"], behaviour)


def run(runs: Path, run_id: str, behaviour: str) -> int:
    if behaviour in ("slow", "stubborn"):
        return interrupted(runs, run_id, behaviour == "stubborn")
    from tests.cli.fake_run import FakeRun, replay_events, training_events

    hidden = runs / f".{run_id}.new"
    fake = FakeRun(texts=[f"document {i} =cmd [red]" for i in range(23)])
    fake.query_columns = {"book": ["a", "b"]}
    fake.columns = {"book": ["a" if i % 2 else "b" for i in range(23)]}
    built = fake.write(runs, f".{run_id}.building")
    built.events_file.unlink()
    built.path.rename(hidden)
    events = [*training_events(fake.steps), *replay_events(fake.steps)]
    follow(hidden, events[:5])
    hidden.rename(runs / run_id)
    follow(runs / run_id, [*events[5:], ("finished", {"work": "run"})])
    print("a library speaks on stdout")
    return answer(True, run=run_id, path=str(runs / run_id), attribution="a0001", argv=sys.argv[1:])


def attribute(folder: Path, request: str) -> int:
    from engine.records.run_folder import RunFolder
    from tests.cli.fake_run import FakeRun, replay_events

    fake = FakeRun(queries=json.loads(request)["texts"] or ["from a file"])
    found = RunFolder(folder)
    fake.scores = fake.write_rows(RunFolder(folder / "spare"), _tokenizer(folder))
    fake.write_attribution(found, "a0002")
    follow(folder, replay_events(fake.steps, len(fake.queries)))
    return answer(True, run=found.id, attribution="a0002", argv=sys.argv[1:])


def interrupted(runs: Path, run_id: str, stubborn: bool) -> int:
    from engine.contract.config import RunConfig
    from engine.records.journal import JournalWriter
    from engine.records.run_folder import RunFolder

    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    folder = RunFolder(runs / run_id)
    folder.path.mkdir()
    config = RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}})
    folder.write_config(config, run_id, time.time())
    journal = JournalWriter(folder.events_file)
    journal.append("phase", phase="train", total=100, attribution=None)
    for step in range(100):
        journal.append("train_step", step=step, loss=1.0, learning_rate=0.1, seconds=0.01)
        Path(os.environ["FAKE_WORKER_PID"]).write_text(str(os.getpid()))
        time.sleep(0.2)
        if stopped and not stubborn:
            journal.append("interrupted", signals=len(stopped))
            return answer(False, message="interrupted", exit_code=130)
    return 1


def follow(folder: Path, events: list) -> None:
    from engine.records.journal import JournalWriter

    journal = JournalWriter(folder / "events.jsonl")
    for event, facts in events:
        journal.append(event, **facts)
    journal.close()


def _tokenizer(folder: Path):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


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
            "why_not": "needs 3.0 GB of disk, 2.0 GB are free",
        },
        {
            "name": "sqrt", "disk_bytes": 200_000_000, "memory_bytes": 700_000_000,
            "train_seconds": 30.0, "replay_seconds": 120.0, "fits": True, "why_not": None,
        },
    ],
    "chosen": "sqrt", "reason": "the fastest that fits into the free disk and memory",
    "free_disk": 2_000_000_000, "free_memory": 8_000_000_000,
    "warnings": ["eps_root is 0: scores may be ill-conditioned"],
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())

"""A finished run with a stored trajectory and a timed replay."""

from pathlib import Path
from typing import Any

from engine.cost.attribution_cost import RunCosts
from engine.cost.measured import TrainingCosts
from engine.cost.query_passes import PassLimits, ReplayMemory
from engine.runs.journal import JournalWriter
from engine.runs.manifest import MANIFEST
from engine.runs.run_folder import RunFolder
from tests.cli.fake_run import FakeRun, replay_events

HOSTILE = (
    "\x1b]52;c;aGk=\x07",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "\x9b31mC1\x90q\x9c",
    "a\rb\x08c\x00d\x7f",
    "\u202eevil\u2066x\u2069",
    "zero\u200bwidth\ufeff",
    "line\u2028sep\u2029par",
    "[bold red]markup[/] [/nothing] [link=x]y[/link]",
    "wide 漢字🎉 e\u0301",
    "\ud800 lone",
)
FORBIDDEN = frozenset(map(chr, (*range(0x20), *range(0x7F, 0xA0)))) | frozenset(
    "\u200b\ufeff\u202e\u2066\u2069\u2028\u2029\ud800"
)


def write_kept(runs: Path, fake: FakeRun | None = None, **facts: Any) -> RunFolder:
    """Write a run that accepts queries; replaying its two queries took 0.1 s a step."""
    fake = fake or FakeRun()
    run = fake.write(runs, **facts)
    manifest = JournalWriter(run.trajectory / MANIFEST)
    manifest.append("schedule", kind="all", steps=fake.steps)
    manifest.append("complete")
    manifest.close()
    journal = JournalWriter(run.events_file)
    journal.append("checkpoint", kind="state", step=0, bytes=3000)
    for event, values in replay_events(fake.steps):
        journal.append(event, **values)
    journal.close()
    return run


def record_costs(run: RunFolder, **limits: Any) -> None:
    """Record the costs of a run that timed no steps before training; a query takes 4,000 bytes."""
    memory = ReplayMemory(1000, 3000, 1000, 2000, 0, all_directions=False)
    values = {"fitting": 99, "within_graph": 1, "replicas": 1, "saves_memory": False, **limits}
    training = TrainingCosts(12, 3000, 1000, 1, None)
    costs = RunCosts(training, PassLimits(memory, 1e6, shared_time=0.5, **values), None, 0, 700)
    run.write_prepared({"checkpointing": "all", "device": "cpu", "costs": costs.record()})


def assert_harmless(screen: str) -> None:
    """Assert that no character on screen could control a terminal."""
    forbidden = FORBIDDEN & set(screen.replace("\n", ""))
    assert not forbidden, forbidden

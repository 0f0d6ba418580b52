"""Scores are the same bits with any host cache, and damaged files are detected."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import pytest
import torch

from engine import CausalLMLoss, Scores, Trainer
from engine.replay.checkpointing import CheckpointingKind, checkpointing_schedule
from engine.runs.errors import StoppedError
from engine.trajectory import files as trajectory_files
from engine.trajectory.host_cache import HostCache
from engine.trajectory.reader import DamagedStepError
from tests.exactness.attributing import Attribution, Problem, make_measurements, make_trainer
from tests.exactness.cases import document_weights, make_data, make_training
from tests.exactness.tiny_models import tiny_model

KINDS = get_args(CheckpointingKind)
PLENTY = 10**9


@dataclass
class Reads:
    """The files read, by any thread."""

    files: list[str] = field(default_factory=list)

    def __call__(self, folder: Path, facts: dict[str, Any]) -> Any:
        self.files.append(facts["file"])
        return _read_tensors(folder, facts)


_read_tensors = trajectory_files.read_tensors


@pytest.fixture
def reads() -> Iterator[Reads]:
    recorded = Reads()
    with patch.object(trajectory_files, "read_tensors", recorded):
        yield recorded


@pytest.fixture(scope="module")
def problem() -> Problem:
    data, training = make_data("rows"), make_training(clip=True)
    weights = data.token_weights(document_weights(data))
    return Problem(CausalLMLoss(tiny_model("gpt2 tied", torch.float32)), data, training, weights)


def trainer_with(problem: Problem, budget: int) -> tuple[Trainer, Any]:
    trainer, start = make_trainer(problem.loss, problem.training, Attribution())
    trainer.host_cache = HostCache(budget)
    return trainer, start


def trained(problem: Problem, budget: int, folder: Path, kind: CheckpointingKind) -> Trainer:
    trainer, start = trainer_with(problem, budget)
    trainer.train(start, problem.stream(), save_dir=folder, checkpointing=kind)
    return trainer


def scores_of(trainer: Trainer, problem: Problem, folder: Path) -> Scores:
    """The scores of two queries, one pass each."""
    measurements = make_measurements("none", trainer.dtype)
    scores = trainer.backward(folder, problem.stream(), measurements, queries_per_pass=1)
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
    return scores


def assert_same(some: Scores, others: Scores) -> None:
    for name in ("weights", "steps", "query_losses"):
        assert torch.equal(getattr(some, name), getattr(others, name))


@pytest.mark.parametrize("kind", KINDS)
def test_every_cache_size_gives_the_same_bits(
    kind: CheckpointingKind, problem: Problem, reads: Reads, tmp_path: Path
) -> None:
    trainer = trained(problem, PLENTY, tmp_path, kind)
    size = trainer.host_cache.used
    in_memory = scores_of(trainer, problem, tmp_path)
    assert reads.files == []

    from_disk = scores_of(trainer_with(problem, 0)[0], problem, tmp_path)
    assert_same(in_memory, from_disk)
    of_pass = len(checkpointing_schedule(kind, len(problem.stream())).reads_of_pass())
    assert len(reads.files) == 2 * of_pass

    reads.files.clear()
    assert_same(from_disk, scores_of(trainer_with(problem, PLENTY)[0], problem, tmp_path))
    assert sorted(reads.files) == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    for budget in (1, size // 3, size // 2):
        reads.files.clear()
        other, _ = trainer_with(problem, budget)
        assert_same(from_disk, scores_of(other, problem, tmp_path))
        assert other.host_cache.used <= budget and len(reads.files) <= 2 * of_pass


@pytest.mark.parametrize("kind", ["gradients", "sqrt"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_stopped_replay_resumes_with_the_same_bits(
    share: float, kind: CheckpointingKind, problem: Problem, tmp_path: Path
) -> None:
    trainer = trained(problem, PLENTY, tmp_path, kind)
    whole = scores_of(trainer, problem, tmp_path)
    trainer.host_cache.budget = int(share * trainer.host_cache.used)
    stream, measurements = problem.stream(), make_measurements("none", trainer.dtype)
    other, _ = trainer_with(problem, trainer.host_cache.budget)

    def stop(state: Any) -> None:
        if state.step == len(stream) // 2:
            raise StoppedError("stopped")

    with other.open(tmp_path) as reader:
        state = other.begin_replay(reader, stream, measurements)
        with pytest.raises(StoppedError):
            other.replay(reader, stream, state, after_step=stop)
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]
    with other.open(tmp_path) as reader:
        other.replay(reader, stream, state)
    assert torch.equal(state.scores, whole.weights) and torch.equal(state.steps, whole.steps)


@pytest.mark.parametrize("budget", [0, PLENTY])
def test_a_damaged_file_is_detected_unless_its_bits_are_cached(
    budget: int, problem: Problem, tmp_path: Path
) -> None:
    trainer = trained(problem, PLENTY, tmp_path, "gradients")
    whole = scores_of(trainer, problem, tmp_path)
    # States and gradients, of early and late steps.
    for file in sorted(tmp_path.glob("*.safetensors"))[::4]:
        content = file.read_bytes()
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        assert_same(scores_of(trainer, problem, tmp_path), whole)
        other, _ = trainer_with(problem, budget)
        with pytest.raises(DamagedStepError) as error:
            scores_of(other, problem, tmp_path)
        kind, step = error.value.key
        assert file.name == f"{kind}-{step:08d}.safetensors"
        file.write_bytes(content)


def test_cached_files_of_another_trajectory_are_not_used(problem: Problem, tmp_path: Path) -> None:
    trainer = trained(problem, PLENTY, tmp_path / "first", "gradients")
    weights = problem.weights.clone()
    weights[0] *= 2
    changed = Problem(problem.loss, problem.data, problem.training, weights)
    _, start = trainer_with(problem, 0)
    (tmp_path / "first").rename(tmp_path / "old")
    trainer.train(start, changed.stream(), save_dir=tmp_path / "first", checkpointing="gradients")
    for folder, of in ((tmp_path / "first", changed), (tmp_path / "old", problem)):
        fresh, _ = trainer_with(problem, 0)
        final, known = (t.open(folder).load_state(len(of.stream())) for t in (trainer, fresh))
        assert all(torch.equal(p, known.params[name]) for name, p in final.params.items())
        assert_same(scores_of(trainer, of, folder), scores_of(fresh, of, folder))


def test_callers_do_not_share_memory_with_the_cache(problem: Problem, tmp_path: Path) -> None:
    trainer, start = trainer_with(problem, PLENTY)
    states = [start, trainer.train(start, problem.stream(), save_dir=tmp_path, checkpointing="all")]
    whole = scores_of(trainer_with(problem, 0)[0], problem, tmp_path)
    with trainer.open(tmp_path) as reader:
        states += [reader.load_state(step) for step in range(len(problem.stream()) + 1)]
    for state in states:
        for parameter in state.params.values():
            parameter.add_(1.0)
    assert_same(scores_of(trainer, problem, tmp_path), whole)

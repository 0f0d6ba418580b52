"""A small finished run, written with the engine's own writers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.runs.config import RunConfig
from engine.runs.journal import JournalWriter
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreShape, ScoreWriter
from engine.runs.tables import write_documents, write_queries, write_rows

TOKENS, BATCH, EPOCHS = 24, 4, 2
WORDS = ("the", "cat", "sat", "on", "a", "mat", "saw", "wörld", "peace", "tea", "🎉", "rain")


@dataclass
class FakeRun:
    """What to write; tests may change every field."""

    name: str = "my run"
    texts: list[str] = field(default_factory=lambda: sample_texts(23))
    queries: list[str] = field(default_factory=lambda: ["who sat on the mat?", "wörld peace"])
    query_columns: dict[str, list[Any]] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    cut: dict[str, list[Any]] | None = None
    """Where the model's context cuts documents off."""
    granularity: str = "token"
    reduction: str = "none"
    finished: bool = True
    seed: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    """Config values besides name, model and data."""
    change: Callable[[np.ndarray], np.ndarray] = lambda scores: scores
    """Applied to the random token scores (row, token) before they are written."""

    def write(self, runs: Path, run_id: str = "20250102T030405-abc123") -> RunFolder:
        """Write the whole folder."""
        run = RunFolder(runs / run_id)
        run.path.mkdir(parents=True)
        values = {"name": self.name, "model": {"path": "/models/tiny"}, "data": {"path": "x.jsonl"}}
        config = RunConfig.model_validate({**values, **self.config})
        run.write_config(config, run_id, time.time() - 3 * 3600)
        table = pa.table({"text": self.texts, **self.columns})
        write_documents(run.documents_file, table, ("text",), range(len(self.texts)), self.cut)
        tokenizer = train_tokenizer(self.texts)
        tokenizer.save(str(run.tokenizer_file))
        self.scores = self.write_rows(run, tokenizer)
        run.trajectory.mkdir()
        (run.trajectory / "step-0.safetensors").write_bytes(b"x" * 5000)
        self._write_events(run)
        if self.finished:
            self.write_attribution(run, "a0001")
        return run

    def write_attribution(self, run: RunFolder, name: str, facts: Any = ()) -> Path:
        """Add a complete attribution."""
        path = run.attributions / name
        path.mkdir(parents=True)
        measurements = 1 if self.reduction != "none" else len(self.queries)
        rows, documents = len(self.texts), len(self.texts)
        shape = ScoreShape(
            measurements, rows, TOKENS, documents, self.steps, "float32", self.granularity
        )
        writer = ScoreWriter(path, shape)
        for query in range(measurements):
            tokens = self.scores * (1 if query == 0 else -0.5)
            writer.write(query, tokens, tokens.sum(1), np.ones(self.steps))
        self._write_queries(path)
        writer.complete(run.id, run.record()["config_hash"], dict(facts))
        return path

    @property
    def steps(self) -> int:
        """Steps of the training."""
        return EPOCHS * -(-len(self.texts) // BATCH)

    def write_rows(self, run: RunFolder, tokenizer: Tokenizer) -> np.ndarray:
        """Write the rows; returns scores (row, token) for them."""
        count = len(self.texts)
        ids = np.zeros((count, TOKENS), np.int32)
        documents = np.full((count, TOKENS), -1, np.int64)
        targets = np.zeros((count, TOKENS), bool)
        for row, text in enumerate(self.texts):
            encoded = tokenizer.encode(text).ids[:TOKENS]
            ids[row, : len(encoded)] = encoded
            documents[row, : len(encoded)] = row
            targets[row, : len(encoded) - 1] = True
        per_epoch = self.steps // EPOCHS
        first = np.arange(count) // BATCH
        steps = np.stack([first + epoch * per_epoch for epoch in range(EPOCHS)], 1)
        write_rows(run.rows_store, ids, documents, targets, steps.astype(np.int32))
        scores = np.random.default_rng(self.seed).normal(size=(count, TOKENS)) * 1e-4
        return self.change(np.where(targets, scores, 0.0))

    def _write_queries(self, path: Path) -> None:
        count = len(self.queries)
        alone = self.reduction == "none"
        coefficient = 1.0 / count if self.reduction == "mean" else 1.0
        write_queries(
            path / "queries.parquet",
            {
                "id": list(range(count)),
                "text": self.queries,
                "input_ids": [[1, 2, 3]] * count,
                "targets": [[True, True, False]] * count,
                "loss_before": [6.0 + i for i in range(count)],
                "loss_after": [3.0 + i for i in range(count)],
                "measurement": list(range(count)) if alone else [0] * count,
                "coefficient": [coefficient] * count,
                **self.query_columns,
            },
        )

    def _write_events(self, run: RunFolder) -> None:
        journal = JournalWriter(run.events_file)
        for event, facts in training_events(self.steps):
            journal.append(event, **facts)
        if self.finished:
            journal.append("attributed", attribution="a0001", queries=len(self.queries))
            journal.append("finished", work="run")
        journal.close()


def training_events(steps: int) -> list[tuple[str, dict[str, Any]]]:
    """The events of a training, as the worker writes them."""
    events: list[tuple[str, dict[str, Any]]] = [
        ("started", {"pid": 1, "work": "run", "warnings": ["bfloat16 makes scores unreliable"]}),
        ("phase", {"phase": "prepare", "total": 0, "attribution": None}),
        ("planned", {"checkpointing": "all", "reason": "all states fit", "checkpoints": [0]}),
        ("phase", {"phase": "train", "total": steps, "attribution": None}),
    ]
    for step in range(steps):
        facts = {"step": step, "loss": 6.0 - 0.1 * step, "learning_rate": 1e-3}
        more = {"gradient_norm": 1.0, "seconds": 0.05, "memory": 10}
        events.append(("train_step", {**facts, **more}))
    return events


def replay_events(steps: int, queries: int = 2) -> list[tuple[str, dict[str, Any]]]:
    """The events of measuring and replaying."""
    events: list[tuple[str, dict[str, Any]]] = [
        ("phase", {"phase": "measure", "total": queries, "attribution": "a0001"})
    ]
    for query in range(queries):
        events.append(("measured", {"query": query, "loss_before": 6.0, "loss_after": 3.0}))
    events.append(("phase", {"phase": "replay", "total": steps, "attribution": "a0001"}))
    events.append(("pass", {"number": 0, "passes": 1, "queries": [0, 1], "reason": "memory"}))
    for step in reversed(range(steps)):
        events.append(("rebuild_step", {"step": step, "seconds": 0.01, "held": [step]}))
        facts = {"step": step, "cotangent_norms": [1.0, 2.0], "seconds": 0.1, "memory": 10}
        events.append(("replay_step", facts))
    events.append(("reproduced", {"exact": True}))
    events.append(("attributed", {"attribution": "a0001", "queries": queries}))
    return events


def sample_texts(count: int) -> list[str]:
    """Short documents over a few words, some with characters of several bytes."""
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, size=12)) for _ in range(count)]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer small enough to split characters over tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    cleaned = [text.encode(errors="replace").decode() for text in texts]
    tokenizer.train_from_iterator(cleaned, trainer)
    return tokenizer

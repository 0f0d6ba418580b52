"""A store far too large to read as a whole, made in seconds: chunks that repeat are hard links.

Sizes, formats and checksums are those of a real store; document scores, documents and texts are
all different, while the scores of tokens repeat every few thousand rows.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.runs.arrays import create_array, rows_per_chunk
from engine.runs.checksummed import DIGEST
from engine.runs.config import RunConfig
from engine.runs.journal import JournalWriter
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import FORMAT_VERSION, TOP_DOCUMENTS
from engine.runs.tables import write_documents, write_queries, write_rows
from tests.cli.fake_run import WORDS, train_tokenizer, training_events

RUN_ID = "20250102T030405-huge00"
NEEDLE = "zygomorphic"
"""A word that only every 50,000th document holds, the first one included."""
_TEMPLATES = 4
_BATCH = 64


def write_huge(runs: Path, documents: int = 300_000, tokens: int = 512, queries: int = 50) -> Path:
    """Write a finished run with one attribution; returns its folder."""
    run = RunFolder(runs / RUN_ID)
    run.path.mkdir(parents=True)
    config = RunConfig.model_validate(
        {"name": "huge", "model": {"path": "/models/tiny"}, "data": {"path": "x.jsonl"}}
    )
    run.write_config(config, RUN_ID, time.time())
    rng = np.random.default_rng(0)
    texts = _texts(documents, tokens, rng)
    write_documents(run.documents_file, pa.table({"text": texts}), ("text",), range(documents))
    tokenizer = train_tokenizer(texts[:50])
    tokenizer.save(str(run.tokenizer_file))
    vocabulary = tokenizer.get_vocab_size()
    steps = _rows(run, documents, tokens, vocabulary, rng)
    run.trajectory.mkdir()
    journal = JournalWriter(run.events_file)
    for event, facts in training_events(min(steps, 200)):
        journal.append(event, **facts)
    journal.append("attributed", attribution="a0001", queries=queries)
    journal.append("finished", work="run")
    journal.close()
    _attribution(run, (queries, documents, tokens), steps, rng)
    return run.path


def _texts(documents: int, tokens: int, rng: np.random.Generator) -> list[str]:
    bodies = [" ".join(rng.choice(WORDS, size=tokens)) for _ in range(64)]
    needle = dict.fromkeys(range(0, documents, 50_000), f"{NEEDLE} ")
    return [f"document {d} {needle.get(d, '')}{bodies[d % 64]}" for d in range(documents)]


def _rows(run: RunFolder, documents: int, tokens: int, vocabulary: int, rng: Any) -> int:
    """Rows of one document each; returns the number of steps."""
    small = min(documents, rows_per_chunk(4 * tokens))
    ids = rng.integers(5, vocabulary, (small, tokens)).astype(np.int32)
    owners = np.broadcast_to(np.arange(documents, dtype=np.int64)[:, None], (documents, tokens))
    steps = (np.arange(documents, dtype=np.int32) // _BATCH)[:, None]
    store = run.rows_store
    write_rows(store, ids, owners[:small], np.ones((small, tokens), bool), steps[:small])
    for name, values in (("document_ids", owners), ("steps", steps)):
        size, kind, chunks = _shape(values)
        array = create_array(store, f"{name}.whole", size, kind, chunks)
        for start in range(0, documents, chunks[0]):
            array[start : start + chunks[0]] = values[start : start + chunks[0]]
        _replace(store / name, store / f"{name}.whole")
    for name, size in (("input_ids", 4), ("targets", 1)):
        _repeat(store / name, (documents, tokens), size)
    return int(steps.max()) + 1


def _attribution(run: RunFolder, shape: tuple[int, int, int], steps: int, rng: Any) -> None:
    queries, documents, tokens = shape
    path = run.attributions / "a0001"
    path.mkdir(parents=True)
    store, per_chunk = path / "scores.zarr", rows_per_chunk(4 * tokens)
    top = min(TOP_DOCUMENTS, documents)
    sizes = {
        "document_scores": ((queries, documents), "float32", (1, rows_per_chunk(4))),
        "step_scores": ((queries, steps), "float32", (1, rows_per_chunk(4))),
        "top_documents": ((queries, 2, top), "int64", (1, 2, top)),
        "token_scores": ((queries, documents, tokens), "float32", (1, per_chunk, tokens)),
    }
    arrays = {name: create_array(store, name, *size) for name, size in sizes.items()}
    for query in range(queries):
        scores = (rng.standard_t(3, documents) * 1e-4).astype(np.float32)
        order = np.argsort(scores)
        arrays["document_scores"][query] = scores
        arrays["top_documents"][query] = np.stack([order[:top], order[::-1][:top]])
        arrays["step_scores"][query] = rng.normal(size=steps).astype(np.float32)
    folder = store / "token_scores" / "c"
    chunks = []
    for template in range(min(_TEMPLATES, -(-documents // per_chunk))):
        rows = slice(template * per_chunk, min(documents, (template + 1) * per_chunk))
        count = rows.stop - rows.start
        arrays["token_scores"][0, rows] = rng.normal(size=(count, tokens)) * 1e-6
        chunks.append(folder / "0" / str(template) / "0")
    for query in range(queries):
        for chunk in range(-(-documents // per_chunk)):
            _link(chunks[chunk % len(chunks)], folder / str(query) / str(chunk) / "0")
    _queries(path, queries)
    record = {
        name: {"shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in arrays.items()
    }
    facts = {"format_version": FORMAT_VERSION, "arrays": record}
    (path / "complete.json").write_text(json.dumps(facts))


def _queries(path: Path, queries: int) -> None:
    columns: dict[str, list[Any]] = {
        "id": list(range(queries)),
        "text": [f"query {query}: who sat on the mat?" for query in range(queries)],
        "input_ids": [[1, 2, 3]] * queries,
        "targets": [[True, True, False]] * queries,
        "loss_before": [6.0] * queries,
        "loss_after": [3.0] * queries,
        "measurement": list(range(queries)),
        "coefficient": [1.0] * queries,
    }
    write_queries(path / "queries.parquet", columns)


def _shape(values: Any) -> tuple[Any, ...]:
    per_chunk = rows_per_chunk(values.shape[1] * values.dtype.itemsize)
    return values.shape, values.dtype, (per_chunk, values.shape[1])


def _replace(old: Path, new: Path) -> None:
    for path in sorted(old.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    old.rmdir()
    new.rename(old)


def _repeat(array: Path, shape: tuple[int, int], itemsize: int) -> None:
    """Grow an array of one chunk by links to that chunk."""
    described = json.loads((array / "zarr.json").read_text())
    per_chunk = rows_per_chunk(shape[1] * itemsize)
    written = described["chunk_grid"]["configuration"]["chunk_shape"][0]
    if shape[0] <= written:
        return
    assert written <= per_chunk
    described["shape"] = list(shape)
    del described["attributes"][DIGEST]
    (array / "zarr.json").write_text(json.dumps(described))
    for chunk in range(1, -(-shape[0] // written)):
        _link(array / "c" / "0" / "0", array / "c" / str(chunk) / "0")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.link(source, target)


if __name__ == "__main__":
    print(write_huge(Path(sys.argv[1])))

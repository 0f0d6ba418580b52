"""One flipped bit anywhere in a run's folder is detected by its reader, or changes nothing."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.attribution.process import Stop
from engine.runs.config import RunConfig
from engine.runs.errors import MagicError
from engine.runs.manifest import read_manifest
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader
from engine.runs.submission import submit_run
from engine.runs.tables import RowTable, read_table
from engine.trajectory.tensor_files import read_tensors
from engine.worker.standalone import run_standalone
from tests.crash.tiny import tiny_config

FLIPS = 4


def scores(run: RunFolder) -> Any:
    reader = ScoreReader(run.attributions / "a0001")
    kinds = (
        reader.token_scores,
        reader.document_scores,
        reader.step_scores,
        reader.top_documents,
    )
    return [read(query).tolist() for read in kinds for query in range(reader.queries)]


def rows(run: RunFolder) -> Any:
    table = RowTable(run.rows_store)
    parts = table.input_ids(), table.document_ids(), table.targets(), table.steps()
    return [part.tolist() for part in parts]


def trajectory(run: RunFolder) -> Any:
    manifest = read_manifest(run.trajectory)
    assert manifest is not None
    stored = {key: read_tensors(run.trajectory, facts) for key, facts in manifest.files.items()}
    tensors = {(key, name): t.tolist() for key, ts in stored.items() for name, t in ts.items()}
    return manifest.kind, manifest.steps, manifest.complete, tensors


READERS: dict[str, Callable[[RunFolder], Any]] = {
    "scores.zarr": scores,
    "rows.zarr": rows,
    "trajectory": trajectory,
    "documents.parquet": lambda run: read_table(run.documents_file).to_pylist(),
    "queries.parquet": lambda run: read_table(
        run.attributions / "a0001" / "queries.parquet"
    ).to_pylist(),
    "events.jsonl": lambda run: run.events(),
    "run_config.yaml": lambda run: run.config(),
}


@pytest.fixture(scope="module")
def run(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("flips")
    config = {**tiny_config(folder, model_folder), "trajectory": {"checkpointing": "gradients"}}
    config["training"]["epochs"] = 1
    job = submit_run(folder / "runs", "r1", RunConfig.model_validate(config))
    run_standalone(job, Stop())
    return job.run


@pytest.mark.parametrize("part", READERS)
def test_flipped_bits_are_never_read_silently(run: RunFolder, part: str) -> None:
    read, draw = READERS[part], random.Random(part)
    whole = read(run)
    files = [
        p for p in run.path.rglob("*") if p.is_file() and part in p.relative_to(run.path).parts
    ]
    assert files
    detected = 0
    for file in files:
        content = file.read_bytes()
        for _ in range(FLIPS):
            place = draw.randrange(len(content))
            flipped = bytearray(content)
            flipped[place] ^= 1 << draw.randrange(8)
            file.write_bytes(flipped)
            try:
                assert same(read(run), whole), f"{file} read silently with byte {place} flipped"
            except MagicError as error:
                assert "\n" not in str(error)
                detected += 1
        file.write_bytes(content)
    assert detected >= len(files)


def same(value: Any, other: Any) -> bool:
    return repr(value) == repr(other) or json.dumps(value, default=str) == json.dumps(
        other, default=str
    )

"""A digit or byte changed in any file of a run: every reader reports it, or returns the same."""

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.attribution.prepared_run import PreparedRun
from engine.daemon.run_monitor import RunMonitor
from engine.evaluation.retraining import queries_of
from engine.evaluation.summary import verdict_of
from engine.runs.checksummed import read_record, write_record
from engine.runs.errors import MagicError
from engine.runs.listing import find_run
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from engine.runs.run_history import read_history
from magic_tui.cli.verbs import app
from tests.evaluation.test_validating import validate

ALL = ValidationRequest(
    drop=(0.3,),
    count=3,
    metasmoothness=True,
    numerical_agreement=True,
    baselines=True,
    keep_models=True,
)
CHANGES = 1
"""Of each file; 3 took 3 minutes and results no more."""
VERBS = (
    ["top", "r1", "--json", "--label", "length"],
    ["show", "r1", "2", "--json"],
    ["validate", "r1", "--count", "0", "--json"],
    ["export", "r1", "--format", "csv", "--json"],
)
SAID = ("damaged", "changed", "cannot be read", "lacks", "differs from")


@pytest.fixture(scope="session")
def validated(
    attributed: RunFolder, job: PreparedRun, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """A run with a file of every kind."""
    copy = tmp_path_factory.mktemp("validated") / "runs" / "r1"
    shutil.copytree(attributed.path, copy)
    run = RunFolder(copy)
    validate(run, job, ALL)
    return run


Shown = dict[str, tuple[int, str]]
"""By what reads, an exit code and what it shows."""


def read_all(run: RunFolder) -> Shown:
    results: Shown = {}
    exported = run.path.parents[1] / "exported"
    for verb in VERBS:
        shutil.rmtree(exported, ignore_errors=True)
        more = ["--out", str(exported)] if verb[0] == "export" else []
        done = CliRunner().invoke(app, [*verb, *more, "--runs-dir", str(run.path.parent)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        files = sorted(exported.rglob("*.csv"))
        text = done.output + "".join(file.read_text() for file in files)
        results[" ".join(verb)] = done.exit_code, text
    for name, read in READERS.items():
        try:
            results[name] = 0, str(read(run))
        except MagicError as error:
            results[name] = int(error.exit_code), str(error)
    return results


def view(run: RunFolder) -> object:
    watch = RunMonitor(run.path, lambda: None)
    try:
        return watch.view()
    finally:
        watch.close()


READERS: dict[str, Callable[[RunFolder], object]] = {
    "ls, status": view,
    "find": lambda run: find_run(run.path.parent, "tiny").id,
    "verdict": lambda run: verdict_of(run.path),
    "history": read_history,
    "asked again": lambda run: [
        q.document.text for q in queries_of(run.attributions / "a0001").items
    ],
    "environment": lambda run: read_record(run.path / "jobs" / "0001" / "request.json"),
}


def changed(content: bytes, draw: random.Random) -> Iterator[bytes]:
    """The content with one digit changed; of a binary file, one byte."""
    text = b"\0" not in content
    digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57] if text else ()
    places = digits or range(len(content))
    for place in draw.sample(list(places), min(CHANGES, len(places))):
        new = bytearray(content)
        if digits:
            new[place] = 48 + (new[place] - 48 + draw.randrange(1, 10)) % 10
        else:
            new[place] = (new[place] + draw.randrange(1, 256)) % 256
        yield bytes(new)


@pytest.mark.slow
def test_every_changed_file_is_reported_or_harmless(
    validated: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Most of the time of magic validate.
    monkeypatch.setattr("engine.evaluation.validation.RESAMPLES", 3)
    whole = read_all(validated)
    assert all(code == 0 for code, _ in whole.values()), whole
    wrong, reported = [], set()
    # Tensors are read by workers alone: see test_bit_flips.
    files = (p for p in validated.path.rglob("*") if p.suffix != ".safetensors" and p.is_file())
    for file in sorted(files):
        name, content = str(file.relative_to(validated.path)), file.read_bytes()
        for number, new in enumerate(changed(content, random.Random(f"1 {name}"))):
            file.write_bytes(new)
            for reader, (code, text) in read_all(validated).items():
                if (code, text) == whole[reader]:
                    continue
                reported.add(name)
                if not any(word in text for word in SAID):
                    wrong.append((name, number, reader, code, text[-300:]))
        file.write_bytes(content)
    assert not wrong, wrong
    kinds = {Path(name).name for name in reported}
    assert {
        "run_config.yaml", "prepared.json", "tokenizer.json", "documents.parquet", "events.jsonl",
        "queries.parquet", "stored_queries.parquet", "complete.json", "validation.csv",
        "numerical_agreement.json", "metasmoothness.json", "request.json", "exit.json",
        "desired_state.json", "zarr.json", "retrainings.jsonl", "cosine.npy", "digests.json",
    } <= kinds, kinds  # fmt: skip


def test_files_of_earlier_versions_are_read(validated: RunFolder, tmp_path: Path) -> None:
    """Without any digest."""
    shutil.copytree(validated.path, tmp_path / "runs" / "r1")
    run, before = RunFolder(tmp_path / "runs" / "r1"), read_all(validated)
    for file in run.path.rglob("*.json"):
        if file.name in ("tokenizer.json",):
            continue
        record = json.loads(file.read_text())
        for key in ("sha256", "files"):
            record.pop(key, None)
        record.get("attributes", {}).pop("sha256", None)
        file.write_text(json.dumps(record))
    table = run.attributions / "a0001" / "validation.csv"
    lines = [line.rpartition(",")[0] for line in table.read_text().splitlines()]
    table.write_text("\n".join(lines) + "\n")
    old, new = str(validated.path.parent), str(run.path.parent)
    after = {name: (code, text.replace(new, old)) for name, (code, text) in read_all(run).items()}
    del before["export r1 --format csv --json"], after["export r1 --format csv --json"]
    assert {n: c for n, (c, _) in after.items()} == {n: c for n, (c, _) in before.items()}
    assert after["show r1 2 --json"] == before["show r1 2 --json"]


def test_a_record_survives_any_plain_values(tmp_path: Path) -> None:
    values = {"b": (1, 2.5), "a": {10: "ö", 2: "\ud800"}, "c": float("nan"), "d": 1e-323}
    write_record(tmp_path / "r.json", values)
    record = read_record(tmp_path / "r.json")
    assert record is not None
    assert (record["b"], record["a"]) == ([1, 2.5], {"10": "ö", "2": "\ud800"})
    assert math.isnan(record["c"]) and record["d"] == 1e-323
    assert read_record(tmp_path / "none.json") is None

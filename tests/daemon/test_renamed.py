"""A run whose folder was renamed is the same run."""

import json
import shutil
from pathlib import Path

import pytest

from engine.runs.api_schema import SubmitValidation
from engine.runs.errors import ConflictError, NotFoundError
from engine.runs.listing import find_run, list_runs, run_of_id
from engine.runs.run_folder import RunFolder
from tests.cli.fake_run import FakeRun
from tests.daemon.conftest import Bench

RUN, OTHER = "20250102T030405-abc123", "20250103T030405-abc123"


def test_every_request_uses_the_id_of_a_renamed_run(bench: Bench) -> None:
    engine = bench.start()
    run = bench.submit(engine, {"wait_for": "go"})
    other = bench.submit(engine)
    bench.until(engine, run, "running")
    bench.act(engine, run, "pause")
    bench.until(engine, run, "paused")
    folder = bench.runs / "my best run"
    (bench.runs / run).rename(folder)
    assert [view.id for view in engine.runs(bench.runs)] == [run, other]
    for wanted in (run, "my best run"):
        view = engine.find(bench.runs, wanted)
        assert (view.id, view.path, view.state) == (run, str(folder), "paused")
    (folder / "go").touch()
    bench.act(engine, run, "resume")
    bench.until(engine, run, "succeeded")
    bench.ask(engine, run)
    assert bench.until(engine, run, "succeeded").attributions == 1
    orders = {"HF_FAKE_RANK": json.dumps([{}])}
    view = engine.validate(bench.runs, run, SubmitValidation(environment=orders))
    assert view.jobs[-1].work == "validate"
    bench.until(engine, run, "succeeded")
    engine.remove(bench.runs, run, "run")
    assert not folder.exists()
    with pytest.raises(NotFoundError):
        engine.run(bench.runs, run)


def test_it_is_found_and_listed_in_its_place(tmp_path: Path) -> None:
    for run_id in (RUN, OTHER):
        FakeRun(finished=False).write(tmp_path, run_id)
    (tmp_path / RUN).rename(tmp_path / "zebra")
    assert [run.id for run in list_runs(tmp_path)] == [RUN, OTHER]
    assert find_run(tmp_path).id == OTHER
    for wanted in (RUN, RUN[:8], "zebra"):
        assert find_run(tmp_path, wanted) == RunFolder(tmp_path / "zebra")
    assert run_of_id(tmp_path, RUN).path.name == "zebra"
    assert run_of_id(tmp_path, OTHER).path.name == OTHER


def test_a_copy_beside_its_original_is_called_by_its_folder(tmp_path: Path) -> None:
    FakeRun(finished=False).write(tmp_path, RUN)
    shutil.copytree(tmp_path / RUN, tmp_path / "copy")
    assert {run.id for run in list_runs(tmp_path)} == {RUN, "copy"}
    assert find_run(tmp_path, RUN).path.name == RUN
    assert find_run(tmp_path, "copy").path.name == "copy"
    (tmp_path / RUN).rename(tmp_path / "first")
    with pytest.raises(ConflictError, match="matches 2 runs"):
        find_run(tmp_path, RUN)

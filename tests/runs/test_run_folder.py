import re
import time
from pathlib import Path

import pytest
import yaml

from engine.runs.checksummed import DIGEST, digest_of, sealed
from engine.runs.config import RunConfig
from engine.runs.errors import RunError, UsageError
from engine.runs.listing import find_run, list_runs
from engine.runs.paths import runs_folder
from engine.runs.read_config import RECORD_KEY
from engine.runs.run_folder import RunFolder, new_run_id

CONFIG = {"model": {"path": "gpt2"}, "data": {"path": "some/data"}}


def make(runs: Path, run_id: str, name: str = "run") -> RunFolder:
    run = RunFolder(runs / run_id)
    run.path.mkdir(parents=True)
    run.write_config(RunConfig.model_validate({**CONFIG, "name": name}), run_id, time.time())
    return run


def test_the_config_comes_back(tmp_path: Path) -> None:
    run = make(tmp_path, "20250101T000000-aaaaaa", "mine")
    assert run.config().name == "mine"
    assert run.record()["run_id"] == run.id
    assert run.record()["config_hash"] == run.config().digest()


def test_a_config_changed_afterwards_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path, "20250101T000000-aaaaaa")
    run.config_file.write_text(run.config_file.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(UsageError, match="was changed after the run was created"):
        run.config()


def test_a_run_from_before_a_key_was_added_is_readable(tmp_path: Path) -> None:
    run = make(tmp_path, "20250101T000000-aaaaaa")
    values = yaml.safe_load(run.config_file.read_text())
    del values["training"]["shuffle"]
    stored = {key: value for key, value in values.items() if key != RECORD_KEY}
    record = {key: value for key, value in values[RECORD_KEY].items() if key != DIGEST}
    values[RECORD_KEY] = sealed({**record, "config_hash": digest_of(stored)})
    run.config_file.write_text(yaml.safe_dump(values))
    assert run.config().training.shuffle


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("magic: {format_version: 99}\n", "has format version 99, this magic reads 1"),
        ("magic: {}\n", "is damaged"),
        ("[", "is damaged"),
        ("", "is damaged"),
        (None, "is not a run folder"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path: Path, content: str | None, sentence: str) -> None:
    run = RunFolder(tmp_path / "x")
    run.path.mkdir()
    if content is not None:
        run.config_file.write_text(content)
    for read in (run.record, run.config):
        with pytest.raises(UsageError, match=sentence):
            read()


def test_finding_a_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there are no runs in .*; start one"):
        find_run(tmp_path / "none")
    old = make(tmp_path, "20250101T000000-aaaaaa", "first")
    new = make(tmp_path, "20250102T000000-bbbbbb", "second")
    (tmp_path / ".20250103T000000-cccccc.new").mkdir()
    (tmp_path / "zzz-not-a-run").mkdir()
    assert list_runs(tmp_path) == [old, new]
    assert find_run(tmp_path) == new
    assert find_run(tmp_path, old.id) == old
    assert find_run(tmp_path, "20250101") == old
    assert find_run(tmp_path, "second") == new
    with pytest.raises(UsageError, match=r"'2025' matches 2 runs \(.*aaaaaa, .*bbbbbb\)"):
        find_run(tmp_path, "2025")
    for wanted in ("zzz-not-a-run", "", "bbbbbb"):
        with pytest.raises(UsageError, match=f"id, prefix or name {wanted!r}"):
            find_run(tmp_path, wanted)


def test_a_name_that_several_runs_share(tmp_path: Path) -> None:
    make(tmp_path, "20250101T000000-aaaaaa", "same")
    make(tmp_path, "20250102T000000-bbbbbb", "same")
    with pytest.raises(UsageError, match="'same' matches 2 runs"):
        find_run(tmp_path, "same")


def test_an_id_wins_over_a_name(tmp_path: Path) -> None:
    run = make(tmp_path, "20250101T000000-aaaaaa")
    make(tmp_path, "20250102T000000-bbbbbb", run.id)
    assert find_run(tmp_path, run.id) == run


def test_the_lock_is_for_one(tmp_path: Path) -> None:
    run = make(tmp_path, "20250101T000000-aaaaaa")
    with run.lock(), pytest.raises(RunError, match=f"run {run.id} is in use"), run.lock():
        pass
    with run.lock():
        pass


def test_where_runs_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAGIC_RUNS", "/somewhere")
    assert runs_folder() == Path("/somewhere")
    assert runs_folder(tmp_path) == tmp_path
    monkeypatch.delenv("MAGIC_RUNS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert runs_folder() == tmp_path / "magic" / "runs"


def test_ids_are_safe_as_folder_names_and_sort_by_time() -> None:
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{8}", new_run_id())
    assert len({new_run_id() for _ in range(50)}) == 50

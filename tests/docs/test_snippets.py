"""The blocks of README and pages do what they show."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from engine.runs.read_config import read_config
from engine.worker.main import main as worker
from tests.docs.pages import ROOT, Block, blocks_of, pages

DEMO = ROOT / "sample_configs" / "demo"
READS_A_RUN = ("docs/reference/run_folder.md", "docs/guides/python.md")
"""Pages whose blocks read a finished run in the folder ``runs``."""
SECONDS = 600


def runnable() -> list[object]:
    """Every page with blocks that run; those that call commands are slow."""
    parameters = []
    for page in pages():
        blocks = [block for block in blocks_of(page) if block.runs]
        if any(block.file is None for block in blocks):
            slow = any(block.language == "bash" for block in blocks)
            marks = [pytest.mark.slow] if slow else []
            parameters.append(pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks))
    return parameters


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the demo's data, in which commands have an engine of their own."""
    shutil.copytree(DEMO, tmp_path / "demo")
    write_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    # The path of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="magic-") as state:
        variables = {
            "MAGIC_RUNS": str(tmp_path / "runs"),
            "MAGIC_STATE_DIR": f"{state}/state",
            "MAGIC_RUNTIME_DIR": f"{state}/run",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "80",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield tmp_path
        stop = [sys.executable, "-m", "magic_tui", "engine", "stop"]
        subprocess.run(stop, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)


def write_pretrained(folder: Path) -> None:
    """A small model with weights, for blocks that load one by name."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(DEMO / "model", folder)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)


@pytest.mark.parametrize("page", runnable())
def test_blocks_run(page: Path, folder: Path) -> None:
    if str(page.relative_to(ROOT)) in READS_A_RUN:
        train_small_run(folder)
    if page.is_relative_to(ROOT / "examples"):
        folder = copy_of_example(page.parent, folder)
    names: dict[str, object] = {}
    for block in blocks_of(page):
        if block.runs:
            run_block(block, folder, names)


def test_run_folder_page_names_every_file(folder: Path) -> None:
    train_small_run(folder)
    page = (ROOT / "docs" / "reference" / "run_folder.md").read_text(encoding="utf-8")
    run = folder / "runs" / "small"
    files = [path.name for path in (*run.iterdir(), *(run / "attributions" / "a0001").iterdir())]
    files += [path.name for path in run.rglob("*.zarr/*") if path.is_dir()]
    assert [name for name in files if name not in page] == []


def copy_of_example(example: Path, folder: Path) -> Path:
    """A copy of an example with the sample configs where it expects them."""
    copy = folder / example.relative_to(ROOT)
    shutil.copytree(example, copy)
    (folder / "sample_configs").symlink_to(ROOT / "sample_configs")
    return copy


def run_block(block: Block, folder: Path, names: dict[str, object]) -> None:
    """Write the block's file, or run it; ``names`` are those of the page's Python blocks."""
    if block.file is not None:
        (folder / block.file).write_text(block.text + "\n")
    elif block.language == "python":
        exec(compile(block.text, str(block), "exec"), names)
    else:
        run_shell(block.text, folder)


def run_shell(text: str, folder: Path) -> None:
    """Run commands, which have to succeed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def train_small_run(folder: Path) -> None:
    """A finished run of the small config, in the folder ``runs``."""
    config, runs = str(write_small_config(folder)), str(folder / "runs")
    assert worker(["run", "--config", config, "--runs", runs, "--id", "small"]) == 0


def write_small_config(folder: Path) -> Path:
    """A config of 16 passages and two queries of the demo."""
    for name, count in (("passages", 16), ("queries", 2)):
        lines = (DEMO / f"{name}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(lines[:count]))
    config = {
        "model": {"path": str(folder / "demo" / "model"), "from_scratch": True},
        "data": {"path": str(folder / "passages.jsonl"), "sequence_length": 32},
        "training": {"batch_size": 8},
        "queries": {"path": str(folder / "queries.jsonl")},
    }
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def configs() -> list[object]:
    """Every block that is a run config, and every sample config."""
    blocks = [block for page in pages() for block in blocks_of(page) if block.language == "yaml"]
    named = [(str(block), block.text) for block in blocks if "model:" in block.text]
    samples = sorted((ROOT / "sample_configs").glob("*.yaml"))
    named += [(sample.name, sample.read_text()) for sample in samples]
    return [pytest.param(text, id=name) for name, text in named]


@pytest.mark.parametrize("text", configs())
def test_configs_are_valid(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert read_config(tmp_path / "run.yaml").data.path

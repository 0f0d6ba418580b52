"""The reference is complete: what users can set, call or meet has a description."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runs import environment
from engine.runs.environment import VARIABLES
from engine.runs.errors import ExitCode
from tests.docs import pages
from tests.docs.pages import ROOT

INTERNAL = {"MAGIC_SUPERVISOR_PIPE", "MAGIC_RENDEZVOUS"}
"""Variables that processes of magic set for each other."""


def test_every_config_key_is_described() -> None:
    from generated import config_keys, field_docstrings

    keys = {key: field_docstrings(section) for key, _, section in config_keys()}
    assert len(keys) > 50
    assert [key for key, docs in keys.items() if not docs.get(key.rpartition(".")[2])] == []


def test_every_verb_and_option_is_described() -> None:
    from generated import commands, parameters

    bare = [name for name, command in commands() if not command.help]
    for name, command in commands():
        bare += [f"{name} {each.opts[0]}" for each in parameters(command) if not each.help]
    assert bare == []


def test_every_exit_code_is_described() -> None:
    from generated import field_docstrings

    assert set(field_docstrings(ExitCode)) == {code.name for code in ExitCode}


def test_every_environment_variable_is_described() -> None:
    files = [*(ROOT / "engine").rglob("*.py"), *(ROOT / "magic_tui").rglob("*.py")]
    used = {name for file in files for name in re.findall(r"\bMAGIC_[A-Z_]+", file.read_text())}
    assert used - INTERNAL == {variable.name for variable in VARIABLES}


def test_every_prefix_of_stored_variables_is_listed() -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    assert [prefix for prefix in environment._KEPT if f"`{prefix}`" not in page] == []


def test_every_request_is_described() -> None:
    from generated import openapi

    operations = [each for path in openapi()["paths"].values() for each in path.values()]
    assert operations and all(each.get("description") for each in operations)


@pytest.mark.parametrize("name", ["cli", "config", "events", "http", "exit_codes", "words"])
def test_generated_page_has_no_empty_cell(name: str) -> None:
    from generated import GENERATORS

    lines = [line for line in GENERATORS[name]().splitlines() if line.startswith("|")]
    assert lines
    if name in ("exit_codes", "words"):
        assert not [line for line in lines if re.search(r"\|\s*\|\s*$", line)]


@pytest.mark.slow
def test_pages_build_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "cache"), str(ROOT / "docs"), str(tmp_path / "html")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    index = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    # No page loads anything from the network.
    for page in (tmp_path / "html").rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)', page.read_text()
        )
        assert loaded == [], page.name
    assert pages.pages() and "magic" in index

"""Files that tools outside the project read: they name what exists, and the same version."""

import re
import tomllib

import yaml

from tests.docs.pages import ROOT, blocks_of

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def test_citation_has_the_version_and_both_papers() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    papers = {each["identifiers"][0]["value"] for each in citation["references"]}
    assert papers == {"arXiv:2504.16430", "arXiv:2503.13751"}


def test_ci_runs_targets_that_exist() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert commands and all(command.startswith("make ") for command in commands)
    for command in commands:
        assert re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE), command
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert versions[0] == PROJECT["requires-python"].removeprefix(">=")


def test_pre_commit_calls_tools_of_the_project() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {"ruff", "ruff-format", "words"} == {hook["id"] for hook in hooks}
    for hook in hooks:
        for word in hook["entry"].split():
            assert not word.startswith("tools/") or (ROOT / word).is_file(), word


def test_dockerfile_copies_files_that_exist() -> None:
    copies = re.findall(r"^COPY --chown=\S+ (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    names = [name for line in copies for name in line.split()]
    assert "constraints.txt" in names and all((ROOT / name).exists() for name in names)


def test_architecture_page_has_the_layers_of_the_import_contracts() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    layers = {c["containers"][0]: c["layers"] for c in contracts if c["type"] == "layers"}
    pictures = {}
    for block in blocks_of(ROOT / "docs" / "contributing" / "architecture.md"):
        package, *lines = block.text.split("\n")
        if package in layers:
            pictures[package] = [re.split(r"\s{2,}", line.strip())[0] for line in lines]
    assert pictures == layers

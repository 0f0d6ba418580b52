"""What pages name exists: commands, options, files, targets of make."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks_of, pages

_COMMAND = re.compile(r"(?:^|[;&(])\s*magic ([^#;&|)\n]*)", re.MULTILINE)
_SPAN = re.compile(r"`(magic [^`]*)`")
_IN_COMMENT = re.compile(r"(magic [a-z]+(?: --[\w-]+(?: [\w.-]+)?)*)")
_LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")
_FOLDERS = "engine|magic_tui|tests|docs|benchmarks|tools|examples|sample_configs"
_PATH = re.compile(rf"(?<![\w./:…-])((?:{_FOLDERS})/[\w./*…-]+)")
_TARGET = re.compile(r"(?:`|^)make ([a-z][a-z-]*)", re.MULTILINE)
BUILT = ("docs/_build",)
IDS = {str(page.relative_to(ROOT)): page for page in pages()}


@pytest.fixture(params=IDS.values(), ids=IDS.keys())
def page(request: pytest.FixtureRequest) -> Path:
    """Each page."""
    path: Path = request.param
    return path


def test_commands_have_their_options(page: Path) -> None:
    check_commands(commands_on(page))


@pytest.mark.parametrize("sample", sorted(p.name for p in (ROOT / "sample_configs").glob("*.yaml")))
def test_commands_in_sample_configs(sample: str) -> None:
    comments = re.findall(r"^# (.*)", (ROOT / "sample_configs" / sample).read_text(), re.MULTILINE)
    commands = (match[1] for match in _IN_COMMENT.finditer("\n".join(comments).replace("\n", " ")))
    check_commands(plain(command) for command in commands)


def check_commands(commands_to_check: Iterable[str]) -> None:
    """Every command has a verb of magic, and only options of that verb."""
    from generated import commands

    verbs = {name: option_names(command) for name, command in commands()}
    for command in commands_to_check:
        words = [word.split("|")[0] for word in command.split()]
        verb = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in verbs), None)
        if verb is None:
            assert words[1:2] in ([], ["--version"], ["--help"], ["VERB"]), command
            continue
        options = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        assert options <= verbs[verb] | {"--help", "-h"}, command


def option_names(command: object) -> set[str]:
    """The options of a verb, in all spellings."""
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)}  # type: ignore[attr-defined]


def commands_on(page: Path) -> Iterator[str]:
    """Every ``magic`` command in the blocks and the inline code of a page."""
    for block in blocks_of(page):
        if block.language in ("bash", "sh"):
            for match in _COMMAND.finditer(block.text.replace("\\\n", " ")):
                yield plain(f"magic {match[1]}")
    text = page.read_text(encoding="utf-8")
    for match in _SPAN.finditer(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
        yield plain(match[1])


def plain(command: str) -> str:
    """A command without the values of its quotes."""
    try:
        return " ".join(word.split(" ")[0] for word in shlex.split(command) if word)
    except ValueError:
        return command


def test_files_exist(page: Path) -> None:
    for match in _PATH.finditer(page.read_text(encoding="utf-8")):
        path = match[1].rstrip(".").split("…")[0]
        if path not in BUILT:
            pattern = path + "*" if "…" in match[1] else path
            assert any(ROOT.glob(pattern.rstrip("/"))), match[1]


def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    for target in _LINK.findall(text):
        path = target.partition("#")[0]
        assert not path or (page.parent / path).exists(), target


def test_targets_of_make_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(_TARGET.findall(page.read_text(encoding="utf-8"))) <= targets

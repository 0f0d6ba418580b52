"""The check of the word list finds words in names, comments, docstrings, messages and pages."""

import sys
from pathlib import Path

from tests.docs.pages import ROOT

sys.path.append(str(ROOT / "tools"))

CODE = '''"""Tells the time."""

# Whoever calls this waits.
class HostTier:
    def take(self):
        found = "a bank"
        raise ValueError(f"cannot forgive {found}")


key = "whoever"
allowed = "nobody answers"  # words: ok
# words: off
also_allowed = "nobody answers"
# words: on
'''


def matches(file: Path) -> set[tuple[int, str]]:
    from check_words import check_file, read_terms

    return {(finding.line, finding.matched.lower()) for finding in check_file(file, read_terms())}


def test_python(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(CODE)
    assert matches(file) == {
        (1, "tells"),
        (3, "whoever"),
        (4, "hosttier"),
        (5, "def take"),
        (6, "found"),
        (6, "bank"),
        (7, "forgive"),
    }


def test_pages(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(
        "It tells.\n\n`told` and\n\n```python\nnobody = 1\n```\n\nNobody. <!-- words: ok -->\n"
    )
    assert matches(file) == {(1, "tells")}


def test_config_comments(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("name: nobody  # goes on by itself\ntraining: {}\n")
    assert matches(file) == {(1, "goes on"), (1, "by itself")}

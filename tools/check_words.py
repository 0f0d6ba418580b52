"""Check that code and pages use the project's words (``tools/words.toml``).

``python tools/check_words.py`` prints every place where a word to avoid is used and exits with
status 1 if there is one. ``--report`` prints counts per folder and word and exits with status 0.
``--locals`` also checks names that say nothing, such as ``found``. Paths on the command line
restrict the check to them.

A line is exempt if it carries a comment with ``words: ok`` (``# words: ok``,
``<!-- words: ok -->``); an identifier on it is exempt in the whole file. Lines between comments
with ``words: off`` and ``words: on`` are exempt.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CODE = ("engine", "magic_tui", "benchmarks", "tools", "examples", "docs/_ext", "tests")
PAGES = ("docs", "examples", "benchmarks", "sample_configs")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile")
SKIPPED_FOLDERS = frozenset({"_build", ".ipynb_checkpoints", "__pycache__", "demo"})
EXEMPT = "words: ok"
# A capital starts a word, unless it continues an abbreviation: HTTPServer is "http_server".
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_EMBEDDED = re.compile(r"\{[^{}]*\}")
_INLINE_CODE = re.compile(r"``[^`]*``|`[^`]*`")
_LINK_TARGET = re.compile(r"\]\([^)]*\)")


@dataclass(frozen=True)
class Term:
    """A word to avoid, the word to use, and the patterns that find it."""

    avoid: str
    use: str
    name: str | None = None
    local: str | None = None
    method: str | None = None
    prose: re.Pattern[str] | None = None
    text: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Finding:
    """A word to avoid at one place of a file."""

    path: Path
    line: int
    term: Term
    matched: str
    of_name: bool = False
    """Whether it is an identifier: reported once a file."""

    def __str__(self) -> str:
        place = f"{self.path.relative_to(ROOT)}:{self.line}"
        return f"{place}: {self.matched!r}: use {self.term.use}"


def read_terms(file: Path = ROOT / "tools" / "words.toml") -> list[Term]:
    """The terms of the word list, in its order."""
    terms = []
    for entry in tomllib.loads(file.read_text(encoding="utf-8"))["term"]:
        if "prose" in entry:
            entry["prose"] = re.compile(rf"\b(?:{entry['prose']})\b", re.IGNORECASE)
        if "text" in entry:
            entry["text"] = re.compile(entry["text"])
        terms.append(Term(**entry))
    return terms


def files_to_check(paths: list[Path]) -> list[Path]:
    """All Python files, pages and sample configs, or those under ``paths``."""
    roots = paths or [ROOT / name for name in (*CODE, *PAGES, *FILES)]
    files: set[Path] = set()
    for root in roots:
        root = root.resolve()
        candidates = list(root.rglob("*")) if root.is_dir() else [root] * root.exists()
        files.update(
            file
            for file in candidates
            if file.suffix in (".py", ".md", ".yaml", ".yml")
            and not SKIPPED_FOLDERS.intersection(file.relative_to(ROOT).parts)
        )
    return sorted(files)


def check_file(file: Path, terms: list[Term]) -> list[Finding]:
    """Every use of a word to avoid in one file, by line."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    terms = [term for term in terms if _may_occur(term, text)]
    findings = [
        Finding(file, number, term, match.group())
        for term in terms
        if term.text
        for number, line in enumerate(lines, 1)
        for match in term.text.finditer(line)
    ]
    if file.suffix == ".py":
        findings += _in_python(file, text, terms)
    else:
        prose = _prose_of_page(lines) if file.suffix == ".md" else _comments_of_yaml(lines)
        findings += _in_prose(file, prose, terms)
    exempt = {number for number, line in enumerate(lines, 1) if EXEMPT in line}
    exempt |= _switched_off(lines)
    names = {f.matched for f in findings if f.of_name and f.line in exempt}
    reported = [
        f for f in findings if f.line not in exempt and not (f.of_name and f.matched in names)
    ]
    ordered = sorted(reported, key=lambda finding: -finding.line)
    unique = {(f.matched if f.of_name else f.line, f.term.avoid): f for f in ordered}
    return sorted(unique.values(), key=lambda finding: finding.line)


def _may_occur(term: Term, text: str) -> bool:
    """Whether a term can be in a file at all, which one search over its text decides."""
    words = (term.name, term.local, term.method)
    folded = text.lower().replace("_", "")
    return any(word and word.replace("_", "") in folded for word in words) or any(
        pattern is not None and pattern.search(text) for pattern in (term.prose, term.text)
    )


def _in_python(file: Path, text: str, terms: list[Term]) -> list[Finding]:
    findings: list[Finding] = []
    prose: list[tuple[int, str]] = []
    docstrings = _docstring_lines(text)
    of_tests = file.is_relative_to(ROOT / "tests")
    strings = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line, content = token.start[0], token.string
        if token.type == tokenize.NAME:
            named = [term for term in terms if _names(term, content)]
            findings += [Finding(file, line, term, content, of_name=True) for term in named]
        elif token.type == tokenize.COMMENT:
            prose.append((line, content))
        elif token.type not in strings or " " not in content:
            continue  # A single word is a key.
        elif line in docstrings or not of_tests:  # Other strings of tests are data.
            parts = _EMBEDDED.sub("", content).split("\n")
            prose += [(line + offset, part) for offset, part in enumerate(parts)]
    for function in _methods(text):
        for term in terms:
            if term.method == function.name:
                findings.append(Finding(file, function.lineno, term, f"def {function.name}"))
    return findings + _in_prose(file, prose, terms)


def _names(term: Term, identifier: str) -> bool:
    if term.local == identifier:
        return True
    if term.name is None:
        return False
    words = _CAMEL.sub("_", identifier).lower().strip("_")
    return f"_{term.name}_" in f"_{words}_"


def _in_prose(file: Path, prose: list[tuple[int, str]], terms: list[Term]) -> list[Finding]:
    findings = []
    for line, text in prose:
        plain = _LINK_TARGET.sub("]", _INLINE_CODE.sub("`code`", text))
        for term in terms:
            if term.prose:
                findings += [
                    Finding(file, line, term, m.group()) for m in term.prose.finditer(plain)
                ]
    return findings


def _docstring_lines(text: str) -> set[int]:
    nodes = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Expr))
    return {
        node.lineno
        for node in nodes
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def _methods(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield child


def _prose_of_page(lines: list[str]) -> list[tuple[int, str]]:
    prose, fence = [], ""
    for number, line in enumerate(lines, 1):
        opening = re.match(r"\s*(`{3,}|~{3,}|:{3,})", line)
        if opening and opening.group(1)[0] != ":":
            fence = "" if fence and line.strip().startswith(fence) else fence or opening.group(1)
        elif not fence:
            prose.append((number, line))
    return prose


def _comments_of_yaml(lines: list[str]) -> list[tuple[int, str]]:
    commented = ((number, line.partition("#")[2]) for number, line in enumerate(lines, 1))
    return [(number, comment) for number, comment in commented if comment]


def _switched_off(lines: list[str]) -> set[int]:
    off, numbers = False, set()
    for number, line in enumerate(lines, 1):
        off = (off or "words: off" in line) and "words: on" not in line
        if off:
            numbers.add(number)
    return numbers


def print_report(findings: list[Finding]) -> None:
    """Counts by folder and by word, the largest first."""
    folders = Counter("/".join(f.path.relative_to(ROOT).parts[:2]) for f in findings)
    words = Counter(f.term.avoid for f in findings)
    for title, counts in (("folder", folders), ("word", words)):
        print(f"by {title}:")
        for name, count in counts.most_common():
            print(f"  {count:5d}  {name}")
    print(f"{len(findings)} in all")


def main() -> int:
    """Check the files and print what was found; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders; default: all")
    parser.add_argument("--report", action="store_true", help="print counts and exit with status 0")
    parser.add_argument("--locals", action="store_true", help="also check local names")
    options = parser.parse_args()
    terms = read_terms()
    if not options.locals:
        terms = [replace(term, local=None, method=None) for term in terms]
    findings = [f for file in files_to_check(options.paths) for f in check_file(file, terms)]
    if options.report:
        print_report(findings)
        return 0
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

"""The pages of the documentation and their fenced blocks."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs" / "_ext"))

_FENCE = re.compile(r"^(\s*)(`{3,})(.*)$")
_SKIPPED = re.compile(r"<!-- not run: (.+?) -->")
_FILE = re.compile(r"# ([\w-]+\.(?:yaml|py))$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and its place in a page."""

    page: Path
    line: int
    language: str
    text: str
    skipped: str | None = None
    """Why it is not run."""

    @property
    def file(self) -> str | None:
        """The file that the block is written to, if its first line is a comment with a name."""
        match = _FILE.match(self.text.split("\n", 1)[0])
        return match and match[1]

    @property
    def runs(self) -> bool:
        """Whether the block does something when its page is run."""
        return self.skipped is None and (
            self.file is not None or self.language in ("bash", "python")
        )

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Every page, the README first."""
    docs = [path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts]
    others = [*(ROOT / "examples").rglob("*.md"), ROOT / "benchmarks" / "RESULTS.md"]
    first = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    return [path for path in (*first, *sorted(docs), *sorted(others)) if path.exists()]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    blocks: list[Block] = []
    lines: list[str] = []
    language = fence = ""
    start, skipped = 0, None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        match = _FENCE.match(line)
        if fence:
            if match and match[2] == fence and not match[3].strip():
                blocks.append(Block(page, start, language, "\n".join(lines), skipped))
                fence, skipped = "", None
            else:
                lines.append(line)
        elif match:
            fence, language, start, lines = match[2], match[3].strip(), number, []
        elif line.strip():
            comment = _SKIPPED.search(line)
            skipped = comment and comment[1]
    return blocks

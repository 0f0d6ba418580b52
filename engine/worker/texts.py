"""The texts of a data source, read the way an attribution of it would read them."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

from engine.contract.config import SourceConfig
from engine.contract.errors import UsageError
from engine.data.sources import Documents, read_documents

_LONG_BYTES = 4 * 2**20
"""A file of lines that is longer is not read as a whole to show its beginning."""


def source_texts(source: SourceConfig, first: int) -> dict[str, Any]:
    """The ``first`` documents of a source: their texts, and their prompts if they have any.

    Raises:
        UsageError: if it cannot be read.
    """
    documents, total = _beginning(source, first) or _whole(source)
    shown = [documents.texts(index) for index in range(min(first, len(documents)))]
    return {
        "documents": total,
        "prompts": [text[0] for text in shown] if len(source.columns) == 2 else None,
        "texts": [text[-1] for text in shown],
    }


def _whole(source: SourceConfig) -> tuple[Documents, int]:
    documents = read_documents(source, "queries")
    return documents, len(documents)


def _beginning(source: SourceConfig, first: int) -> tuple[Documents, int] | None:
    """The first documents of a long local file of lines, and how many lines it has.

    None if it is no such file, or something is wrong with it: reading all of it tells what.
    """
    path, suffix = Path(source.path), Path(source.path).suffix.lower()
    if suffix not in (".jsonl", ".txt") or source.split != "train" or not path.is_file():
        return None
    if path.stat().st_size < _LONG_BYTES:
        return None
    with path.open("rb") as file, tempfile.NamedTemporaryFile(suffix=suffix) as head:
        lines = (line for line in file if line.strip())
        beginning = list(itertools.islice(lines, first))
        head.writelines(beginning)
        head.flush()
        try:
            documents = read_documents(source.model_copy(update={"path": head.name}), "queries")
        except UsageError:
            return None
        # An array of JSON over many lines is as many documents as it has items.
        if len(documents) != len(beginning):
            return None
        return documents, len(documents) + sum(1 for _ in lines)

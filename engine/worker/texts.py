"""The texts of a data source, read the way an attribution of it would read them."""

from typing import Any

from engine.contract.config import SourceConfig
from engine.data.sources import read_documents


def source_texts(source: SourceConfig, first: int) -> dict[str, Any]:
    """The ``first`` documents of a source: their texts, and their prompts if they have any.

    Raises:
        UsageError: if it cannot be read.
    """
    documents = read_documents(source, "queries")
    shown = [documents.texts(index) for index in range(min(first, len(documents)))]
    return {
        "documents": len(documents),
        "prompts": [text[0] for text in shown] if len(source.columns) == 2 else None,
        "texts": [text[-1] for text in shown],
    }

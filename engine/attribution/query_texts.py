"""Reading and checking the texts of queries as an attribution does; loads no torch."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.sources import Documents, read_documents
from engine.data.splits import is_local
from engine.data.tokens import tokenize
from engine.runs.checksummed import verify
from engine.runs.config import IMAGE_CLASSIFICATION, RunConfig, SourceConfig
from engine.runs.errors import UsageError
from engine.runs.request import AttributionRequest
from engine.runs.run_folder import RunFolder
from engine.runs.temporary import scratch_folder

_LONG_BYTES = 4 * 2**20
"""Bytes from which only the beginning of a file of lines is read for the list of queries."""


def source_texts(source: SourceConfig, first: int) -> dict[str, Any]:
    """The first ``first`` documents of a source: their number, texts and prompts, if any.

    Raises:
        UsageError: if the source cannot be read.
    """
    documents, total = _beginning(source, first) or _whole(source)
    texts = [documents.texts(index) for index in range(min(first, len(documents)))]
    return {
        "documents": total,
        "prompts": [text[0] for text in texts] if len(source.columns) == 2 else None,
        "texts": [text[-1] for text in texts],
    }


def typed_documents(request: AttributionRequest) -> Documents:
    """The texts of a request as documents, each after its prompt, if any."""
    import pyarrow as pa

    columns = {"text": request.texts or ()}
    if request.prompts is not None:
        columns = {"prompt": request.prompts, "completion": request.texts or ()}
    rows = np.arange(len(request.texts or ()), dtype=np.int64)
    return Documents(pa.table({n: list(c) for n, c in columns.items()}), tuple(columns), rows)


def check_queries(folder: RunFolder, request: AttributionRequest) -> dict[str, Any]:
    """Check a request's queries as far as possible without torch and without the network.

    Local files and columns are read, and texts are tokenized with the run's stored tokenizer, if
    any. Queries of a user's task are not checked, because the task reads them.

    Raises:
        UsageError: for any fault in the queries.
    """
    config = folder.config()
    if request.texts is not None and not config.has_tokens:
        raise UsageError(
            f"run {folder.id} trains {config.task}, which has no texts: use --queries DATA "
            "and --split SPLIT"
        )
    documents, where = None, "--text"
    if request.texts is not None:
        documents = typed_documents(request)
    elif request.queries is not None:
        where = "queries"
        documents = _read_local(request.queries, config, where)
    if documents is not None and folder.tokenizer_file.exists():
        tokenizer: Any = _StoredTokenizer(folder.tokenizer_file)
        tokenized = tokenize(documents, tokenizer, config.data.sequence_length)
        tokenized.check(where, "texts" if request.queries is None else "queries", strict=True)
    return {"run": folder.id, "queries": None if documents is None else len(documents)}


def check_config(config: RunConfig) -> dict[str, Any]:
    """Check the queries of a config, before its run is trained, as :func:`check_queries` does.

    Texts are not tokenized: the run has no stored tokenizer yet.

    Raises:
        UsageError: for any fault in the queries.
    """
    sources: dict[str, SourceConfig | None] = {"queries": config.queries}
    if config.queries is not None:
        sources["queries.contrast"] = config.queries.contrast
    for where, source in sources.items():
        if source is not None:
            _read_local(source, config, where)
    return {"queries": None if config.queries is None else config.queries.path}


def _read_local(source: SourceConfig, config: RunConfig, where: str) -> Documents | None:
    """The documents of query data; None if they are images, remote, or read by a user's task."""
    if not is_local(source.path):
        return None
    if config.task == IMAGE_CLASSIFICATION:
        from engine.data.images import read_images

        read_images(source, where)
    return read_documents(source, where) if config.has_tokens else None


class _StoredTokenizer:
    """A run's tokenizer.json with the part of transformers' interface that tokenize() uses."""

    is_fast = True

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        verify(file)
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def __call__(self, texts: list[str], **options: bool) -> "_Encoded":
        return _Encoded(self._tokenizer.encode_batch(texts))


class _Encoded(dict[str, Any]):
    """The part of transformers' BatchEncoding that tokenize() uses."""

    def __init__(self, encodings: list[Any]) -> None:
        super().__init__(input_ids=[each.ids for each in encodings])
        self.encodings = encodings


def _whole(source: SourceConfig) -> tuple[Documents, int]:
    documents = read_documents(source, "queries")
    return documents, len(documents)


def _beginning(source: SourceConfig, first: int) -> tuple[Documents, int] | None:
    """The first documents of a long local file of lines, and its number of lines.

    None if the source is no such file, or if it has a fault, which reading all of it reports.
    """
    path, suffix = Path(source.path), Path(source.path).suffix.lower()
    if suffix not in (".jsonl", ".txt") or source.split != "train" or not path.is_file():
        return None
    if path.stat().st_size < _LONG_BYTES:
        return None
    with path.open("rb") as file, scratch_folder("texts") as folder:
        lines = (line for line in file if line.strip())
        beginning = list(itertools.islice(lines, first))
        head = folder / f"beginning{suffix}"
        head.write_bytes(b"".join(beginning))
        try:
            documents = read_documents(source.model_copy(update={"path": str(head)}), "queries")
        except UsageError:
            return None
        # A JSON array over many lines has one document per item, not per line.
        if len(documents) != len(beginning):
            return None
        return documents, len(documents) + sum(1 for _ in lines)

"""The texts and columns of a run's training documents.

Texts are read one row group at a time, so that a table of millions of documents is never in memory.
The most recent row groups are cached.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.checksummed import verify
from engine.runs.errors import RunError, UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.safe_open import check_regular
from engine.runs.tables import column_names, read_table

CACHED_BYTES = 8 * 2**20
"""Size of the cached row groups in bytes; the latest one is cached even if it is larger."""
CUT_MARK = " […]"
"""Follows a text that is longer than the model reads."""
_CUT = ("cut_tokens", "text_end")


def as_read(texts: Sequence[str], end: int | None) -> list[str]:
    """The part of a text, or of a prompt and its completion, that the model reads.

    Args:
        texts: the text, or prompt and completion.
        end: characters that the model reads, followed by a mark; None for all of them.
    """
    if end is None:
        return list(texts)
    parts, left = [], end
    for text in texts:
        parts.append(text[:left])
        left -= len(parts[-1])
    return [*parts[:-1], parts[-1] + CUT_MARK]


def document_texts(run: RunFolder, documents: Sequence[int]) -> list[str]:
    """The texts of some training documents; see :meth:`DocumentTexts.texts`."""
    return DocumentTexts(run.documents_file).texts(documents)


def data_column(run: RunFolder, name: str) -> list[Any]:
    """One column of the training data, (document,).

    Raises:
        UsageError: if there is no such column.
    """
    columns = column_names(run.documents_file)
    if name not in columns:
        raise UsageError(
            f"the documents of run {run.id} have no column {name!r}; there are {', '.join(columns)}"
        )
    return list(read_table(run.documents_file, [name]).column(name).to_pylist())


class DocumentTexts:
    """Random access to the texts of ``documents.parquet``, and a search; thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open the table and read its footer.

        Raises:
            RunError: if it is missing or damaged.
        """
        self.path = path
        verify(path)
        self._lock = threading.Lock()
        self._cached: OrderedDict[int, Any] = OrderedDict()
        self._file = self._open()
        try:
            metadata = self._file.metadata
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            names = self._file.schema_arrow.names
        except Exception as error:
            raise self._damaged(error) from None
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._columns = ["text"] if "text" in names else ["prompt", "completion"]
        self._cut = [name for name in _CUT if name in names]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def texts(self, documents: Sequence[int]) -> list[str]:
        """Texts of some documents in the given order: the text, or prompt → completion.

        A text that is longer than the model reads is cut there and marked.
        """
        # In sorted order each row group is decoded once.
        by_document = {
            document: self._text(*self._locate(document)) for document in sorted(set(documents))
        }
        return [by_document[document] for document in documents]

    def cut_tokens(self, document: int) -> int:
        """Tokens of a document that the model does not read."""
        if not self._cut:
            return 0
        table, row = self._locate(document)
        return int(table["cut_tokens"][row].as_py() or 0)

    def search(self, wanted: str) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Find the documents that contain ``wanted``, ignoring case, one row group at a time.

        Yields:
            The matching documents of a row group, and the number of documents searched so far.
        """
        import pyarrow.compute as pc

        for group in range(len(self._starts) - 1):
            table = self._group(group, cache=False)
            hits = np.zeros(table.num_rows, bool)
            for name in self._columns:
                match = pc.match_substring(table[name], wanted, ignore_case=True)
                hits |= pc.fill_null(match, False).to_numpy(zero_copy_only=False)
            for row in np.nonzero(hits)[0] if self._cut else ():
                hits[row] = wanted.casefold() in self._text(table, int(row)).casefold()
            yield np.nonzero(hits)[0] + self._starts[group], int(self._starts[group + 1])

    def _locate(self, document: int) -> tuple[Any, int]:
        """The row group of a document, and its row in the group."""
        group = int(np.searchsorted(self._starts, document, side="right")) - 1
        return self._group(group), document - int(self._starts[group])

    def _text(self, table: Any, row: int) -> str:
        values = [str(table[name][row].as_py() or "") for name in self._columns]
        end = table["text_end"][row].as_py() if self._cut else None
        return " → ".join(as_read(values, end))

    def _group(self, group: int, cache: bool = True) -> Any:
        with self._lock:
            if group in self._cached:
                self._cached.move_to_end(group)
                return self._cached[group]
            try:
                columns = [*self._columns, *self._cut]
                table = self._file.read_row_group(group, columns, use_threads=False)
            except Exception as error:
                raise self._damaged(error) from None
            if cache:
                self._cached[group] = table
                while len(self._cached) > 1 and self._size() > CACHED_BYTES:
                    self._cached.popitem(last=False)
            return table

    def _size(self) -> int:
        return sum(int(table.nbytes) for table in self._cached.values())

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Arrow's own memory pool does not return memory to the system.
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            return pq.ParquetFile(check_regular(self.path), page_checksum_verification=True)
        except Exception as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> RunError:
        return RunError(f"{self.path} is missing or damaged ({type(error).__name__})")

"""The texts of a run's training documents, read a row group at a time.

A table of millions of documents is never held: one row group is decoded when a document of it is
asked for, the latest few are kept, and a search goes through all of them one after the other.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.checksummed import verify
from engine.runs.errors import RunError
from engine.runs.safe_open import check_regular

KEPT_BYTES = 8 * 2**20
"""Row groups kept decoded, in bytes; the latest one is kept whatever its size."""
CUT_MARK = " […]"
"""Stands where a text goes on beyond what the model reads."""
_CUT = ("cut_tokens", "text_end")


def as_read(texts: Sequence[str], end: int | None) -> list[str]:
    """A text, or a prompt and its completion, as far as the model reads: ``end`` characters.

    None is all of it; otherwise a mark follows.
    """
    if end is None:
        return list(texts)
    shown, left = [], end
    for text in texts:
        shown.append(text[:left])
        left -= len(shown[-1])
    return [*shown[:-1], shown[-1] + CUT_MARK]


class DocumentTexts:
    """Random access to the texts of ``documents.parquet``, and a search through them."""

    def __init__(self, path: Path) -> None:
        """Open the table; nothing but its footer is read.

        Raises:
            RunError: if it is missing or damaged.
        """
        self.path = path
        verify(path)
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()
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
        """Texts of some documents, in the order asked: the text, or prompt → completion.

        They end where the model's text ends, with a mark if that is not the end of the document.
        """
        # Each row group is decoded once, however its documents are spread over the request.
        found = {
            document: self._text(*self._place(document)) for document in sorted(set(documents))
        }
        return [found[document] for document in documents]

    def cut_tokens(self, document: int) -> int:
        """How many tokens of a document the model does not read."""
        if not self._cut:
            return 0
        table, row = self._place(document)
        return int(table["cut_tokens"][row].as_py() or 0)

    def search(self, wanted: str) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Documents that hold ``wanted``, whatever its case, a row group at a time.

        Yields:
            The documents found in one row group, and how many documents were looked at so far.
        """
        import pyarrow.compute as pc

        for group in range(len(self._starts) - 1):
            table = self._group(group, keep=False)
            hits = np.zeros(table.num_rows, bool)
            for name in self._columns:
                match = pc.match_substring(table[name], wanted, ignore_case=True)
                hits |= pc.fill_null(match, False).to_numpy(zero_copy_only=False)
            for row in np.nonzero(hits)[0] if self._cut else ():
                hits[row] = wanted.casefold() in self._text(table, int(row)).casefold()
            yield np.nonzero(hits)[0] + self._starts[group], int(self._starts[group + 1])

    def _place(self, document: int) -> tuple[Any, int]:
        """The row group of a document, and its row there."""
        group = int(np.searchsorted(self._starts, document, side="right")) - 1
        return self._group(group), document - int(self._starts[group])

    def _text(self, table: Any, row: int) -> str:
        values = [str(table[name][row].as_py() or "") for name in self._columns]
        end = table["text_end"][row].as_py() if self._cut else None
        return " → ".join(as_read(values, end))

    def _group(self, group: int, keep: bool = True) -> Any:
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
            try:
                columns = [*self._columns, *self._cut]
                table = self._file.read_row_group(group, columns, use_threads=False)
            except Exception as error:
                raise self._damaged(error) from None
            if keep:
                self._kept[group] = table
                while len(self._kept) > 1 and self._size() > KEPT_BYTES:
                    self._kept.popitem(last=False)
            return table

    def _size(self) -> int:
        return sum(int(table.nbytes) for table in self._kept.values())

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Arrow's own pool keeps what was read once; the system's gives it back.
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            return pq.ParquetFile(check_regular(self.path), page_checksum_verification=True)
        except Exception as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> RunError:
        return RunError(f"{self.path} is missing or damaged ({type(error).__name__})")

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

from engine.contract.errors import RunError
from engine.records.checked import verify
from engine.records.opening import check_regular

KEPT_BYTES = 8 * 2**20
"""Row groups kept decoded, in bytes; the latest one is kept whatever its size."""


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

    def __len__(self) -> int:
        return int(self._starts[-1])

    def texts(self, documents: Sequence[int]) -> list[str]:
        """Texts of some documents, in the order asked: the text, or prompt → completion."""
        found: dict[int, str] = {}
        # Each row group is decoded once, however its documents are spread over the request.
        for document in sorted(set(documents)):
            group = int(np.searchsorted(self._starts, document, side="right")) - 1
            table = self._group(group)
            row = document - int(self._starts[group])
            found[document] = self._text(table, row)
        return [found[document] for document in documents]

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
            yield np.nonzero(hits)[0] + self._starts[group], int(self._starts[group + 1])

    def _text(self, table: Any, row: int) -> str:
        values = [table[name][row].as_py() or "" for name in self._columns]
        return " → ".join(str(value) for value in values)

    def _group(self, group: int, keep: bool = True) -> Any:
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
            try:
                table = self._file.read_row_group(group, self._columns, use_threads=False)
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

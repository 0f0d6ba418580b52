"""``validation.csv``: what was predicted of every retrained subset and query, and what came out.

One line a subset and query: ``query``, ``subset``, ``kind``, ``documents`` (how many were left
out), ``full`` (φ with all documents), ``predicted`` and ``actual``. All of it follows from the
bank and the scores, so the table is written anew when it is opened, whatever an interruption left
of it; after that the lines of a subset are appended together.

The last column, ``crc``, is the CRC-32 of the header and the rest of the line: a value that was
changed is not believed. Tables without it are read unchecked.
"""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.subsets import Subset
from engine.runs.atomic import write_atomically
from engine.runs.checksummed import CRC, with_checksum

COLUMNS = ("query", "subset", "kind", "documents", "full", "predicted", "actual")
HEADER = ",".join((*COLUMNS, CRC))

Floats = NDArray[np.floating]
Retrained = tuple[Subset, Sequence[float]]
"""A subset, and φ of every query on its model."""


def predictions(full: Sequence[float], scores: Floats, subset: Subset) -> list[float]:
    """φ(1) + Σ score·(w − 1) of every query, with w = 0 for the subset's documents and else 1.

    Args:
        full: φ(1) of every query.
        scores: (query, document).
        subset: what is left out.
    """
    left_out = scores[:, list(subset.documents)].sum(1, dtype=np.float64)
    return [value - change for value, change in zip(full, left_out.tolist(), strict=True)]


class ValidationTable:
    """The table of one attribution, to which subsets are added."""

    def __init__(self, file: Path, scores: Floats, full: Sequence[float]) -> None:
        """The table in ``file``.

        Args:
            file: where it is.
            scores: (query, document).
            full: φ of every query with all documents.
        """
        self.file = file
        self._scores, self._full = scores, full

    def write(self, retrained: Iterable[Retrained]) -> None:
        """Write it anew; one with lines that are not ours is put aside first."""
        text = HEADER + "\n" + "".join(map(self._lines, retrained))
        ours = set(text.encode().splitlines())
        # Earlier versions wrote the same without checksums.
        ours |= {line.rpartition(b",")[0] for line in ours}
        there = self.file.read_bytes() if self.file.exists() else b""
        if not ours.issuperset(there[: there.rfind(b"\n") + 1].splitlines()):
            os.replace(self.file, self.file.with_suffix(".csv.before"))
        write_atomically(self.file, text.encode())

    def add(self, retrained: Retrained) -> None:
        """Add a subset, durably."""
        with open(self.file, "ab", buffering=0) as file:
            file.write(self._lines(retrained).encode())
            os.fsync(file.fileno())

    def _lines(self, retrained: Retrained) -> str:
        subset, actual = retrained
        lines = []
        expected = predictions(self._full, self._scores, subset)
        for query, values in enumerate(zip(self._full, expected, actual, strict=True)):
            facts = (query, subset.name, subset.kind, len(subset.documents))
            text = io.StringIO()
            row = [*facts, *(repr(float(value)) for value in values)]
            csv.writer(text, lineterminator="").writerow(row)
            lines.append(with_checksum(text.getvalue(), HEADER) + "\n")
        return "".join(lines)

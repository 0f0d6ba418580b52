"""The cache of a run's retrainings, and the table of predictions made from it.

``validation/retrainings.jsonl`` is a journal with one record for each retraining, written when its
queries are measured; an interruption loses only the retraining in progress:

    subset, kind, documents   what was left out
    measurements              by attribution, φ of each of its queries
    model                     the file of the model, if it was stored
    made_from                 a digest of what the run was made from, weights and rows included

A retraining measures the queries of every attribution that is complete. For later attributions the
stored model is measured, or the subset retrained, and a second record added.

``attributions/ID/validation.csv`` has one line for each query and subset: ``query``, ``subset``,
``kind``, ``documents`` (number left out), ``full`` (φ with all documents), ``predicted``,
``actual`` and ``crc``, the CRC-32 of the header and the rest of the line. It is derived from the
cache and the scores, and rewritten whenever it is opened.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.subsets import Subset
from engine.runs.atomic import write_atomically
from engine.runs.checksummed import CRC, with_checksum
from engine.runs.errors import RunError
from engine.runs.journal import JournalWriter, read_journal

COLUMNS = ("query", "subset", "kind", "documents", "full", "predicted", "actual")
HEADER = ",".join((*COLUMNS, CRC))
Floats = NDArray[np.floating]
Measurements = Mapping[str, list[float]]
"""By attribution, φ of every query."""


class Retrainings:
    """The cache of one run; one process writes at a time."""

    def __init__(self, file: Path, made_from: str | None) -> None:
        """Read the journal, and open it for appending.

        Args:
            file: the journal.
            made_from: a digest of what the run is made from. Records with another digest are
                ignored.

        Raises:
            RunError: if a line before the last is damaged.
        """
        file.parent.mkdir(exist_ok=True)
        self.made_from = made_from
        self.ignored = 0
        """Records of a run made from something else."""
        self._records: dict[str, dict[str, Any]] = {}
        try:
            for record in read_journal(file):
                if record.get("made_from") == made_from:
                    self._merge(record)
                else:
                    self.ignored += 1
            self._journal = JournalWriter(file)
        except (RunError, KeyError) as error:
            raise RunError(
                f"{file} is damaged ({error}); restore it from a backup, or remove it to retrain "
                "its subsets"
            ) from None

    def measured(self, subset: str, attribution: str) -> list[float] | None:
        """φ of an attribution's queries on the model of a subset; None if it was not measured."""
        measurements = self._records.get(subset, {}).get("measurements", {})
        return None if attribution not in measurements else list(measurements[attribution])

    def subsets(self, attribution: str) -> list[Subset]:
        """The subsets with measurements of an attribution's queries, oldest first."""
        return [
            Subset(name, record["kind"], tuple(record["documents"]))
            for name, record in self._records.items()
            if attribution in record["measurements"]
        ]

    def model(self, subset: str) -> dict[str, Any] | None:
        """The file record of a subset's model; None if it was not stored."""
        model = self._records.get(subset, {}).get("model")
        return None if model is None else dict(model)

    def add(self, subset: Subset, measurements: Measurements, model: dict[str, Any] | None) -> None:
        """Append a retraining durably."""
        record = {
            "subset": subset.name,
            "kind": subset.kind,
            "documents": list(subset.documents),
            "measurements": dict(measurements),
            "model": model,
            "made_from": self.made_from,
        }
        self._journal.append("retrained", **record)
        self._journal.sync()
        self._merge(record)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _merge(self, record: dict[str, Any]) -> None:
        before = self._records.get(record["subset"], {"measurements": {}, "model": None})
        self._records[record["subset"]] = {
            **record,
            "measurements": {**before["measurements"], **record["measurements"]},
            "model": record["model"] or before["model"],
        }


class ValidationTable:
    """``validation.csv`` of one attribution."""

    def __init__(self, file: Path, scores: Floats, full: Sequence[float]) -> None:
        """Use the table in ``file``; nothing is written yet.

        Args:
            file: its path.
            scores: document scores, (query, document).
            full: φ of every query with all documents.
        """
        self.file = file
        self._scores, self._full = scores, full

    def write(self, retrained: Iterable[tuple[Subset, Sequence[float]]]) -> None:
        """Rewrite the table from subsets and φ of every query on their models.

        A table with lines of another origin is renamed to ``validation.csv.before``.
        """
        text = HEADER + "\n" + "".join(self._lines(*each) for each in retrained)
        lines = set(text.encode().splitlines())
        # Tables without checksums are accepted.
        lines |= {line.rpartition(b",")[0] for line in lines}
        existing = self.file.read_bytes() if self.file.exists() else b""
        if not lines.issuperset(existing[: existing.rfind(b"\n") + 1].splitlines()):
            os.replace(self.file, self.file.with_suffix(".csv.before"))
        write_atomically(self.file, text.encode())

    def add(self, subset: Subset, actual: Sequence[float]) -> None:
        """Append the lines of a subset durably."""
        with open(self.file, "ab", buffering=0) as file:
            file.write(self._lines(subset, actual).encode())
            os.fsync(file.fileno())

    def _lines(self, subset: Subset, actual: Sequence[float]) -> str:
        lines = []
        predicted = predictions(self._full, self._scores, subset)
        for query, values in enumerate(zip(self._full, predicted, actual, strict=True)):
            facts = (query, subset.name, subset.kind, len(subset.documents))
            text = io.StringIO()
            row = [*facts, *(repr(float(value)) for value in values)]
            csv.writer(text, lineterminator="").writerow(row)
            lines.append(with_checksum(text.getvalue(), HEADER) + "\n")
        return "".join(lines)


def predictions(full: Sequence[float], scores: Floats, subset: Subset) -> list[float]:
    """φ(1) + Σ score·(w − 1) of every query, with w = 0 for the subset's documents and else 1.

    Args:
        full: φ(1) of every query.
        scores: (query, document).
        subset: the documents to leave out.
    """
    left_out = scores[:, list(subset.documents)].sum(1, dtype=np.float64)
    return [value - change for value, change in zip(full, left_out.tolist(), strict=True)]

"""The bank: which subsets of a run were retrained, and what was measured on each model.

``<run>/validation/bank.jsonl`` is a journal of one record a retraining, written once it is
measured, so that an interruption costs the retraining under way and no more:

    subset, kind, documents   what was left out
    measurements              by attribution, φ of each of its queries
    model                     the file of the model, if it was kept
    made_from                 a digest of what the run was made from, weights and rows included

A retraining serves every method and every attribution that was complete by then. For queries
asked later the kept model is measured, or the subset retrained, and a second record added.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.evaluation.subsets import Subset
from engine.runs.errors import RunError
from engine.runs.journal import JournalWriter, read_journal

Measured = Mapping[str, list[float]]
"""By attribution, φ of every query."""


class Retrainings:
    """What is known of the retrainings of one run; one process writes at a time."""

    def __init__(self, file: Path, made_from: str | None) -> None:
        """Read the journal, and open it for more.

        Records of a run that was made from something else are left aside.

        Args:
            file: the journal.
            made_from: a digest of what the run is made from, if that was recorded.

        Raises:
            RunError: if a line before the last is damaged.
        """
        file.parent.mkdir(exist_ok=True)
        self.folder = file.parent
        self.made_from = made_from
        self.left_aside = 0
        """Records that were made from something else."""
        self._records: dict[str, dict[str, Any]] = {}
        try:
            for record in read_journal(file):
                if record.get("made_from") == made_from:
                    self._take(record)
                else:
                    self.left_aside += 1
            self._journal = JournalWriter(file)
        except (RunError, KeyError) as error:
            raise RunError(
                f"{file} is damaged ({error}); restore it from a backup, or remove it to train "
                "its subsets again"
            ) from None

    def measured(self, subset: str, attribution: str) -> list[float] | None:
        """φ of an attribution's queries on the model of a subset; None if nobody measured it."""
        found = self._records.get(subset, {}).get("measurements", {})
        return None if attribution not in found else list(found[attribution])

    def subsets(self, attribution: str) -> list[Subset]:
        """The subsets on whose models an attribution's queries were measured, oldest first."""
        return [
            Subset(name, record["kind"], tuple(record["documents"]))
            for name, record in self._records.items()
            if attribution in record["measurements"]
        ]

    def model(self, subset: str) -> dict[str, Any] | None:
        """The file of a subset's model, by which to read and check it, if it was kept."""
        model = self._records.get(subset, {}).get("model")
        return None if model is None else dict(model)

    def add(self, subset: Subset, measured: Measured, model: dict[str, Any] | None) -> None:
        """Record what was measured on the model of a subset, durably."""
        record = {
            "subset": subset.name,
            "kind": subset.kind,
            "documents": list(subset.documents),
            "measurements": dict(measured),
            "model": model,
            "made_from": self.made_from,
        }
        self._journal.append("retrained", **record)
        self._journal.sync()
        self._take(record)

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def _take(self, record: dict[str, Any]) -> None:
        before = self._records.get(record["subset"], {"measurements": {}, "model": None})
        self._records[record["subset"]] = {
            **record,
            "measurements": {**before["measurements"], **record["measurements"]},
            "model": record["model"] or before["model"],
        }

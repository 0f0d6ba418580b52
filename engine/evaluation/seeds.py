"""Runs that are the same training but for the seed, which only then have a mean.

The seed draws the order of the rows in each epoch, the first weights of what is not pretrained
(a model from scratch, adapters, the models of other tasks) and the masks of forced dropout.
Documents, rows and queries are no functions of it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from engine.runs.config_fields import config_fields
from engine.runs.errors import UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.tables import RowTable, read_table
from engine.scores.attribution import Attribution, open_attribution

_OTHER_SEED = "start another one with: magic run CONFIG --seed N"
_FREE = {"name", "seed", "trajectory", "devices", "queries", "attribution"}
"""What says nothing about the training: labels, how much is kept, where it is computed, and what
is asked, which is compared as it was stored."""
_MEASURED = {"loss_before", "loss_after", "cut_tokens", "text_end"}
_ASKED = "asked.parquet"
"""What was asked, as the model is given it."""


@dataclass(frozen=True)
class Seeded:
    """An attribution of a run, and the seed that the run was trained with."""

    opened: Attribution
    seed: int

    @property
    def run(self) -> str:
        """The run's id."""
        return self.opened.run.id


def open_seeds(runs: Sequence[RunFolder], attribution: str | None = None) -> tuple[Seeded, ...]:
    """The attributions of runs that differ in nothing but their seed, the latest if none is named.

    Raises:
        UsageError: if the runs are fewer than two, one is named twice, one has no such attribution,
            or they differ in something else; naming the first difference found.
        RunError: if a file is damaged.
    """
    for first, second in combinations(runs, 2):
        if first.id == second.id:
            raise UsageError(f"run {first.id} is named twice; name each run once")
    if len(runs) < 2:
        raise UsageError(f"a mean over seeds takes two runs or more; {_OTHER_SEED}")
    fields = [config_fields(run) for run in runs]
    opened = [open_attribution(run, attribution) for run in runs]
    seeds = tuple(Seeded(o, f["seed"]) for o, f in zip(opened, fields, strict=True))
    for other, theirs in zip(seeds[1:], fields[1:], strict=True):
        _check_configs(seeds[0].run, fields[0], other.run, theirs)
    for one, two in combinations(seeds, 2):
        if one.seed == two.seed:
            raise UsageError(
                f"runs {one.run} and {two.run} both have seed {one.seed}: they are the same "
                f"training; {_OTHER_SEED}"
            )
    _check_data([one.run for one in opened])
    for each in opened[1:]:
        _check_queries(opened[0], each)
    return seeds


def _check_configs(first: str, ours: dict[str, Any], second: str, theirs: dict[str, Any]) -> None:
    names = [
        name
        for name in {**ours, **theirs}
        if name.split(".")[0] not in _FREE and ours.get(name) != theirs.get(name)
    ]
    if names:
        name, more = names[0], f" ({len(names) - 1} more)" if len(names) > 1 else ""
        raise _differ(
            first,
            second,
            f"{name} is {ours.get(name)} in the first and {theirs.get(name)} in the second{more}",
        )


def _check_data(runs: Sequence[RunFolder]) -> None:
    texts, digests = _texts(runs[0]), _digests(runs[0])
    for run in runs[1:]:
        difference = _first_difference("document", texts, _texts(run))
        if difference:
            raise _differ(runs[0].id, run.id, difference)
        found = _digests(run)
        names = [name for name in {**digests, **found} if digests.get(name) != found.get(name)]
        if names:
            raise _differ(runs[0].id, run.id, f"{names[0]} of their rows are not the same")


def _texts(run: RunFolder) -> Any:
    table = read_table(run.documents_file)
    return table.select([n for n in ("text", "prompt", "completion") if n in table.column_names])


def _digests(run: RunFolder) -> dict[str, str]:
    """By name, a digest of what was kept of the rows; their order is in none of it."""
    arrays = RowTable(run.rows_store).arrays()
    return {name: _digest(values) for name, values in arrays.items()}


def _digest(values: Any) -> str:
    digest = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
    digest.update(values.tobytes())
    return digest.hexdigest()


def _check_queries(first: Attribution, second: Attribution) -> None:
    difference = _first_difference("query", _queries(first), _queries(second))
    if not difference and all((each.path / _ASKED).exists() for each in (first, second)):
        inputs = [read_table(each.path / _ASKED, ["inputs"]) for each in (first, second)]
        difference = _first_difference("query", *inputs)
    if difference:
        raise _differ(
            f"{first.run.id} ({first.id})",
            f"{second.run.id} ({second.id})",
            f"{difference}; name an attribution that asks the same with: --attribution ID",
        )


def _queries(opened: Attribution) -> Any:
    table = read_table(opened.path / "queries.parquet")
    return table.drop_columns([name for name in table.column_names if name in _MEASURED])


def _first_difference(noun: str, first: Any, second: Any) -> str:
    """In words, where two tables differ first; nothing if they do not."""
    if first.column_names != second.column_names:
        return f"their {noun} columns are not the same"
    for name in first.column_names:
        ours, theirs = first.column(name), second.column(name)
        place = None if ours.equals(theirs) else _first_place(ours.to_pylist(), theirs.to_pylist())
        if place is not None:
            return f"{name} of {noun} {place} is not the same"
    if first.num_rows != second.num_rows:
        last = first.num_rows - 1, second.num_rows - 1
        return f"the last {noun} is {last[0]} in the first and {last[1]} in the second"
    return ""


def _first_place(first: list[Any], second: list[Any]) -> int | None:
    # What is not a number equals nothing, itself included, but reads the same.
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if repr(a) != repr(b)), None)


def _differ(first: str, second: str, difference: str) -> UsageError:
    return UsageError(f"runs {first} and {second} differ in more than their seed: {difference}")

"""What a run was asked, is asked, and will ask of its own accord."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.runs.errors import RunError
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import list_attributions
from engine.runs.tables import read_table
from engine.scores.attribution import open_attribution
from magic_tui.queries.candidates import Candidate, Source, candidate_of


@dataclass(frozen=True)
class Known:
    """What a run tells of queries."""

    run: RunFolder
    sources: tuple[Source, ...]
    """What its attributions ask, complete ones first."""
    kept: bool
    """Whether it has a complete trajectory."""
    awaited: str | None
    """Where its own queries are, as long as they are not read."""

    @property
    def will_change(self) -> bool:
        """Whether it is worth reading again."""
        return self.awaited is not None or not all(source.answered for source in self.sources)


def read_known(run: RunFolder) -> Known:
    """Read it.

    Raises:
        UsageError: if the run is of an unknown format version.
        RunError: if a file is damaged.
    """
    run.record()
    # In this order none is missed that becomes complete meanwhile.
    pending, complete = asked_now(run), asked_before(run)
    ended = {source.attribution for source in complete}
    sources = (*complete, *(each for each in pending if each.attribution not in ended))
    return Known(run, sources, run.has_trajectory(), awaited_queries(run))


def asked_before(run: RunFolder) -> list[Source]:
    """What each attribution of a run asked, the earliest first.

    Raises:
        UsageError: if the run is of an unknown format version.
        RunError: if a file is damaged.
    """
    return [_asked(run, folder.name) for folder in list_attributions(run.attributions)]


def asked_now(run: RunFolder) -> list[Source]:
    """What attributions that are not complete ask, the earliest first.

    A run's own queries are among them as soon as its data is prepared.
    """
    found = []
    for folder in sorted(run.attributions.glob(".a*.new")):
        # Both are written whole; the first is there once the queries' losses are measured.
        for file in ("queries.parquet", "asked.parquet"):
            with contextlib.suppress(RunError, KeyError):
                found.append(_unanswered(folder, file))
                break
    return found


def awaited_queries(run: RunFolder) -> str | None:
    """Where the run's own queries are, as long as they are not read; None if it has none."""
    queries = run.config().queries
    return None if queries is None or run.prepared_file.exists() else queries.path


def with_answers(source: Source, found: Sequence[Source]) -> Source:
    """Texts of one origin that know which attribution asked them meanwhile."""
    answers = {each.key: each for asked in found for each in asked.candidates}
    return replace(source, candidates=tuple(answers.get(c.key, c) for c in source.candidates))


def _asked(run: RunFolder, attribution: str) -> Source:
    opened = open_attribution(run, attribution)
    candidates = tuple(
        replace(
            candidate_of(document),
            asked=(attribution, query.index),
            before=document.loss_before,
            after=document.loss_after,
        )
        for query in opened.queries
        for document in query.documents
    )
    return Source(f"asked in {attribution}", candidates, len(candidates), attribution)


def _unanswered(folder: Path, file: str) -> Source:
    columns = ["text"] + (["loss_before", "loss_after"] if file == "queries.parquet" else [])
    rows = read_table(folder / file, columns).to_pylist()
    made = tuple(
        Candidate(row["text"], before=row.get("loss_before"), after=row.get("loss_after"))
        for row in rows
    )
    attribution = folder.name.removeprefix(".").removesuffix(".new")
    name = f"asked in {attribution}, no scores yet"
    return Source(name, made, len(made), attribution, answered=False)

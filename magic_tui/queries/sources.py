"""Where query texts come from: a run's attributions, its own queries, files and typed texts."""

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.runs.errors import RunError
from engine.runs.read_config import absolute_path
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import list_attributions
from engine.runs.tables import read_table
from engine.scores.attribution import open_attribution
from magic_tui.client.worker import run_worker
from magic_tui.queries.candidates import Candidate, candidate_of

MOST_TEXTS = 5000
"""Texts read from one file."""


@dataclass(frozen=True)
class Source:
    """Texts of one origin, in its order."""

    name: str
    candidates: tuple[Candidate, ...]
    total: int
    """Number of texts, including those not read."""
    attribution: str | None = None
    """The attribution whose queries these are."""
    complete: bool = True
    """Whether that attribution is complete."""


@dataclass(frozen=True)
class RunQueries:
    """The queries of a run."""

    run: RunFolder
    sources: tuple[Source, ...]
    """The queries of its attributions, complete ones first."""
    has_trajectory: bool
    """Whether it has a complete trajectory."""
    unread: str | None
    """Path of the run's own queries while they have not been read."""

    @property
    def will_change(self) -> bool:
        """Whether to read again later."""
        return self.unread is not None or not all(source.complete for source in self.sources)


def read_run_queries(run: RunFolder) -> RunQueries:
    """Read the queries of a run.

    Raises:
        UsageError: if the run has an unknown format version.
        RunError: if a file is damaged.
    """
    run.record()
    # In this order no attribution that completes meanwhile is missed.
    pending, complete = pending_sources(run), complete_sources(run)
    ids = {source.attribution for source in complete}
    sources = (*complete, *(each for each in pending if each.attribution not in ids))
    return RunQueries(run, sources, run.has_trajectory(), unread_queries(run))


def complete_sources(run: RunFolder) -> list[Source]:
    """The queries of each complete attribution, the earliest first.

    Raises:
        UsageError: if the run has an unknown format version.
        RunError: if a file is damaged.
    """
    return [_complete_source(run, folder.name) for folder in list_attributions(run.attributions)]


def pending_sources(run: RunFolder) -> list[Source]:
    """The queries of attributions in progress, the earliest first.

    They include the run's own queries once its data is prepared.
    """
    sources = []
    for folder in sorted(run.attributions.glob(".a*.new")):
        # Both files are written atomically; the first exists once losses are known.
        for file in ("queries.parquet", "stored_queries.parquet"):
            with contextlib.suppress(RunError, KeyError):
                sources.append(_pending_source(folder, file))
                break
    return sources


def unread_queries(run: RunFolder) -> str | None:
    """Path of the run's own queries while they have not been read; None if it has none."""
    queries = run.config().queries
    return None if queries is None or run.prepared_file.exists() else queries.path


def source_name(attribution: str) -> str:
    """The name of an attribution's source."""
    return f"queries of {attribution}"


def with_results(source: Source, complete: Sequence[Source]) -> Source:
    """The source with the attribution of each text that has been scored meanwhile."""
    scored = {each.key: each for other in complete for each in other.candidates}
    return replace(source, candidates=tuple(scored.get(c.key, c) for c in source.candidates))


def parse_source(line: str) -> tuple[str, dict[str, str]]:
    """Path and columns of a typed line: ``file column`` or ``file prompt,completion``."""
    try:
        path, *rest = shlex.split(line) or [""]
    except ValueError:
        path, rest = line.strip(), []
    columns = [name for name in ",".join(rest).split(",") if name]
    pair = ("prompt_column", "completion_column")
    keys = ("text_column",) if len(columns) < 2 else pair
    return path, dict(zip(keys, columns, strict=False))


def read_source(
    path: str,
    columns: Mapping[str, str],
    folder: Path,
    is_cancelled: Callable[[], bool] | None = None,
) -> Source:
    """Read query data from a file, a folder, or a data set of the hub.

    Args:
        path: the data; relative to ``folder``.
        columns: ``text_column``, or ``prompt_column`` and ``completion_column``.
        folder: the working folder.
        is_cancelled: reading stops once it returns True.

    Raises:
        WorkerError: if the data cannot be read.
    """
    source = {"path": absolute_path(path, folder), **columns}
    command = ["texts", "--source", json.dumps(source), "--first", str(MOST_TEXTS)]
    facts = run_worker(command, is_cancelled)
    texts = facts["texts"]
    prompts = facts["prompts"] or [""] * len(texts)
    candidates = tuple(Candidate(p + t, p) for p, t in zip(prompts, texts, strict=True))
    return Source(path, candidates, facts["documents"])


def _complete_source(run: RunFolder, attribution: str) -> Source:
    candidates = tuple(
        replace(
            candidate_of(document),
            scored_in=(attribution, query.index),
            before=document.loss_before,
            after=document.loss_after,
        )
        for query in open_attribution(run, attribution).queries
        for document in query.documents
    )
    return Source(source_name(attribution), candidates, len(candidates), attribution)


def _pending_source(folder: Path, file: str) -> Source:
    columns = ["text"] + (["loss_before", "loss_after"] if file == "queries.parquet" else [])
    rows = read_table(folder / file, columns).to_pylist()
    candidates = tuple(
        Candidate(row["text"], before=row.get("loss_before"), after=row.get("loss_after"))
        for row in rows
    )
    attribution = folder.name.removeprefix(".").removesuffix(".new")
    name = f"{source_name(attribution)}, no scores yet"
    return Source(name, candidates, len(candidates), attribution, complete=False)

"""What is asked of a run's trajectory, stored so that every attempt asks the same."""

from dataclasses import dataclass
from pathlib import Path

from engine.attribution.prepared_run import Job
from engine.attribution.queries import Queries, read_asked, read_queries, typed_queries, write_asked
from engine.runs.config import Granularity, QueriesConfig, Reduction
from engine.runs.errors import RunError
from engine.runs.request import Request
from engine.runs.run_folder import RunFolder

ASKED = "asked.parquet"
"""Beside the scores: what was asked, in the form that can be asked again."""


@dataclass(frozen=True)
class QueryRequest:
    """Queries asked of a run, and where their scores grow until they are complete."""

    folder: RunFolder
    staging: Path
    """``attributions/.ID.new``; renamed to ``ID`` in the end."""
    queries: Queries
    granularity: Granularity

    @property
    def identifier(self) -> str:
        """The attribution's id."""
        return self.staging.name.removeprefix(".").removesuffix(".new")


def staging_folder(folder: RunFolder, request: Request) -> Path:
    """Where an attribution grows until it is complete."""
    return folder.attributions / f".{request.attribution}.new"


def store_asked(folder: RunFolder, request: Request, queries: Queries) -> None:
    """Store what is asked, before anything is computed."""
    staging = staging_folder(folder, request)
    staging.mkdir(parents=True, exist_ok=True)
    write_asked(staging / ASKED, queries)


def is_stored(folder: RunFolder, request: Request) -> bool:
    """Whether an earlier attempt stored what is asked, and it can be read."""
    return _is_readable(staging_folder(folder, request) / ASKED)


def asking_of(folder: RunFolder, request: Request, job: Job) -> QueryRequest:
    """What a request asks: as an earlier attempt stored it, or read and stored now.

    Raises:
        UsageError: for whatever is wrong with the queries.
    """
    staging = staging_folder(folder, request)
    if not is_stored(folder, request):
        store_asked(folder, request, _read(request, job))
    reduction: Reduction = "none"
    granularity = job.config.attribution.granularity
    if request.asked is not None:
        granularity = request.asked.granularity or granularity
        reduction = request.asked.reduction
    elif job.config.queries is not None:
        reduction = job.config.queries.reduction
    if not job.config.has_tokens:
        granularity = "document"
    queries = read_asked(staging / ASKED, reduction)
    return QueryRequest(folder, staging, queries, granularity)


def _is_readable(file: Path) -> bool:
    if not file.exists():
        return False
    try:
        read_asked(file, "none")
    except RunError:
        # What was asked can be read once more where it came from.
        return False
    return True


def _read(request: Request, job: Job) -> Queries:
    asked = request.asked
    if asked is None:
        assert job.config.queries is not None
        return read_queries(job.config.queries, job)
    if asked.texts is not None:
        return typed_queries(asked, job)
    assert asked.queries is not None
    source = {**asked.queries.model_dump(), "reduction": asked.reduction}
    return read_queries(QueriesConfig.model_validate(source), job)

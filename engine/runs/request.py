"""The request of a job: train a run, attribute queries, or validate scores."""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from engine.runs.config import Granularity, PositiveInt, Reduction, Section, SourceConfig
from engine.runs.errors import UsageError

LONGEST_TEXT = 100_000
"""Characters of a text in a request; longer texts belong in a file of query data."""
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Work = Literal["run", "attribute", "validate"]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Cluster = Literal["slurm", "local"]
ClusterOptions = Annotated[
    dict[str, bool | int | float | str | tuple[str, ...]], Field(max_length=100)
]


class AttributionRequest(Section):
    """Queries for a stored trajectory: texts, or query data as in a config."""

    texts: tuple[Text, ...] | None = None
    prompts: tuple[Text, ...] | None = None
    """A prompt before each text, or an empty string. Prompts have no loss."""
    queries: SourceConfig | None = None
    reduction: Reduction = "none"
    granularity: Granularity | None = None

    @model_validator(mode="after")
    def _texts_or_queries(self) -> "AttributionRequest":
        if (self.texts is None) == (self.queries is None):
            raise ValueError("give either texts or queries")
        if self.texts is not None and not all(text.strip() for text in self.texts):
            raise ValueError("a text is empty; give the text of the query")
        if self.texts == ():
            raise ValueError("texts is empty; give at least one")
        if self.prompts is not None and len(self.prompts) != len(self.texts or ()):
            raise ValueError("prompts need texts: give one for each text, empty if it has none")
        return self


class ValidationRequest(Section):
    """Retrainings without some documents, which are compared with an attribution's predictions."""

    drop: tuple[Share, ...] = (0.05,)
    """Shares of the documents; each is left out ``count`` times, drawn independently."""
    count: Annotated[int, Field(ge=0, le=100_000)] = 20
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    leave_one_out: Annotated[int, Field(ge=0)] = 0
    """Number of documents that are left out one at a time, drawn from the seed."""
    drop_top: tuple[PositiveInt, ...] = ()
    """For each query, this many of its most helpful documents are left out together."""
    metasmoothness: bool = False
    """Measure from three trainings whether φ is a smooth function of the data weights."""
    numerical_agreement: bool = False
    """Replay again in other micro-batches and compare the scores."""
    baselines: bool = False
    """Also score the documents by other methods."""
    jobs: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that retrain in parallel."""
    cluster: Cluster | None = None
    """Where submitit submits these as jobs; None starts them as children of the worker."""
    cluster_options: ClusterOptions = Field(default_factory=dict)
    """Options of such a job by submitit's names, such as ``timeout_min``."""
    keep_models: bool = False
    """Store the retrained models, so that later queries need no retraining."""

    @model_validator(mode="after")
    def _options_of_a_cluster(self) -> "ValidationRequest":
        if self.cluster_options and self.cluster is None:
            raise ValueError("cluster_options need a cluster: set it to slurm or local")
        return self

    @property
    def elsewhere(self) -> bool:
        """Whether only machines of the cluster compute."""
        indicators = self.metasmoothness or self.numerical_agreement or self.baselines
        return self.cluster == "slurm" and not indicators


def read_validation(values: dict[str, Any]) -> ValidationRequest:
    """A validation request from plain values.

    Raises:
        UsageError: in one sentence.
    """
    with _one_sentence():
        return ValidationRequest.model_validate(values)


def read_attribution_request(values: dict[str, Any]) -> AttributionRequest:
    """An attribution request from plain values.

    Raises:
        UsageError: in one sentence.
    """
    with _one_sentence():
        return AttributionRequest.model_validate(values)


def read_source(values: dict[str, Any]) -> SourceConfig:
    """A data source from plain values.

    Raises:
        UsageError: in one sentence.
    """
    with _one_sentence():
        return SourceConfig.model_validate(values)


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{where}: {message}" if where else message) from None


class Request(Section):
    """One job, as it is stored in ``request.json``."""

    work: Work
    attribution: str | None
    """The id of the attribution that the job computes or validates; None if there is none."""
    attribution_request: AttributionRequest | None = None
    """The queries of ``attribute``; a run uses those of its config."""
    validation: ValidationRequest | None = None
    """The retrainings of ``validate``."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the submitting process that the work depends on."""
    submitted: float
    """Seconds since 1970."""

    @property
    def elsewhere(self) -> bool:
        """Whether only machines of a cluster compute."""
        return self.validation is not None and self.validation.elsewhere

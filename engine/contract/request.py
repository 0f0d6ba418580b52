"""What is asked of a run: its own work, or queries of its kept trajectory."""

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from engine.contract.config import Granularity, Reduction, Section, SourceConfig, Tolerance
from engine.contract.errors import UsageError

LONGEST_TEXT = 100_000
"""Characters of a text that is asked as it is; a longer one goes into a file of query data."""
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]


class AttributionRequest(Section):
    """Queries asked of a kept trajectory: texts, or query data like those of a config."""

    texts: tuple[Text, ...] | None = None
    prompts: tuple[Text, ...] | None = None
    """A prompt before each text, perhaps empty; only the text's own loss counts then."""
    queries: SourceConfig | None = None
    reduction: Reduction = "none"
    granularity: Granularity | None = None
    tolerance: Tolerance | None = None
    """As ``attribution.query_tolerance`` of a config, which holds if this is left out."""

    @model_validator(mode="after")
    def _texts_or_queries(self) -> "AttributionRequest":
        if (self.texts is None) == (self.queries is None):
            raise ValueError("give texts, or queries, and not both")
        if self.texts is not None and not all(text.strip() for text in self.texts):
            raise ValueError("a text is empty; give the text to ask about")
        if self.texts == ():
            raise ValueError("texts is empty; give at least one")
        if self.prompts is not None and len(self.prompts) != len(self.texts or ()):
            raise ValueError("prompts go with texts: give one for each, empty where there is none")
        return self


def read_asked(values: dict[str, Any]) -> AttributionRequest:
    """What is asked, from plain values.

    Raises:
        UsageError: in one sentence.
    """
    with _one_sentence():
        return AttributionRequest.model_validate(values)


def read_source(values: dict[str, Any]) -> SourceConfig:
    """A data source, from plain values.

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

    work: Literal["run", "attribute"]
    attribution: str | None
    """The id of the attribution that the job makes, if it makes one."""
    asked: AttributionRequest | None = None
    """What is asked, for ``attribute``; a run asks its config's queries."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Environment variables of whoever asked that the work depends on."""
    submitted: float
    """Seconds since 1970."""

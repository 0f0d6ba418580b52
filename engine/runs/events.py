"""The events of a run: one typed class for each kind, with its fields and their units.

``events.jsonl`` in the run folder holds one JSON object per line: ``event`` (the kind), ``seq``
(its number, from 0), ``time`` (seconds since 1970) and the fields of the kind's class. Steps count
from 0. Durations are in seconds; memory and sizes are in bytes.

Writers check every event against its class with :func:`check`. Readers call :func:`parse`, which
ignores unknown fields and returns None for an unknown kind, so that an older magic can read the
journal of a newer one. A field with a default may be missing.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import UnionType
from typing import Any, NamedTuple, get_origin


class Phase(StrEnum):
    """The phases of a job, in the order in which they can occur."""

    PREPARE = "prepare"
    """Read and tokenize the data, load the model, choose the checkpointing."""
    TRAIN = "train"
    """Train and write the trajectory."""
    MEASURE = "measure"
    """Compute the query losses before and after training."""
    REPLAY = "replay"
    """Differentiate the query losses back through training."""
    RETRAIN = "retrain"
    """Train again without some documents, to validate the scores."""
    PROBE = "probe"
    """Replay once more in higher precision, to compare the scores."""
    SCORE = "score"
    """Compute the scores of the baselines."""


class Event(StrEnum):
    """The kinds of events; :data:`SCHEMA` maps each to its class."""

    STARTED = "started"
    RESUMED = "resumed"
    WARNING = "warning"
    PLANNED = "planned"
    PHASE = "phase"
    TRAIN_STEP = "train_step"
    CHECKPOINT = "checkpoint"
    MEASURED = "measured"
    PASS = "pass"
    REBUILD_STEP = "rebuild_step"
    REPLAY_STEP = "replay_step"
    REPRODUCED = "reproduced"
    ATTRIBUTED = "attributed"
    SUBMITTED = "submitted"
    RETRAIN_STEP = "retrain_step"
    RETRAINED = "retrained"
    PROBE_STEP = "probe_step"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class Started(NamedTuple):
    """An attempt at a job began."""

    pid: int
    """Process id of the worker's first rank."""
    work: str = "run"
    """``run``, ``attribute`` or ``validate``."""
    job: int = 1
    """Number of the job, from 1."""
    attempt: int = 1
    """Number of the attempt at this job, from 1."""
    warnings: Sequence[str] = ()
    """Warnings about the config, one sentence each."""


class Resumed(NamedTuple):
    """A phase continues from what an earlier attempt saved."""

    phase: str
    """A :class:`Phase`."""
    step: int
    """For training, the next step; for a replay, the step of the replay cursor."""
    done: int
    """How many of the phase's steps are already done."""


class Warned(NamedTuple):
    """A problem that does not end the job."""

    message: str


class Planned(NamedTuple):
    """The checkpointing of the trajectory was chosen."""

    checkpointing: str
    """``all``, ``gradients``, ``sqrt`` or ``log``."""
    reason: str
    """The reason, in words."""
    checkpoints: Sequence[int] = ()
    """The steps whose train states are stored."""
    disk: int | None = None
    """Predicted size of the trajectory."""
    memory: int | None = None
    """Predicted peak of what ``train_step`` and ``replay_step`` report as ``memory``."""
    host_memory: int | None = None
    """Predicted peak of host memory, where a GPU computes."""


class PhaseStarted(NamedTuple):
    """A phase began."""

    phase: str
    """A :class:`Phase`."""
    total: int
    """Its steps (its queries, for ``measure``); 0 if they are not counted."""
    attribution: str | None = None
    """The attribution that it computes or validates."""


class TrainStepped(NamedTuple):
    """A training step is done."""

    step: int
    loss: float
    """Mean training loss of the batch."""
    seconds: float
    gradient_norm: float | None = None
    """L2 norm of the gradient, before clipping."""
    learning_rate: float | None = None
    memory: int | None = None
    """Peak memory so far: of the device on a GPU, of the process on a CPU."""


class CheckpointWritten(NamedTuple):
    """A file is durably on disk."""

    kind: str
    """``state`` or ``gradient`` of the trajectory; ``resume`` or ``replay`` to resume from."""
    step: int
    bytes: int


class QueryMeasured(NamedTuple):
    """The loss of a query was computed."""

    query: int
    loss_before: float
    """With the initial model."""
    loss_after: float
    """With the trained model."""


class PassStarted(NamedTuple):
    """One replay of the training for a group of queries began."""

    number: int
    """Its number, from 0."""
    passes: int
    """How many passes there are in total."""
    queries: Sequence[int] = ()
    """The queries that are replayed together."""
    reason: str = ""
    """The reason for their number, in words."""


class StateRebuilt(NamedTuple):
    """A train state that is not stored was rebuilt by repeating a step."""

    step: int
    """The repeated step: s_{t+1} was computed from s_t."""
    seconds: float
    held: Sequence[int] = ()
    """The steps whose states are held in memory."""
    waited: float | None = None
    """Seconds spent waiting for the trajectory's files since the previous step."""


class ReplayStepped(NamedTuple):
    """The replay cursor moved back by one step."""

    step: int
    cotangent_norms: Sequence[float | None]
    """For each query of the pass, the L2 norm of ∂φ/∂θ_t."""
    seconds: float
    memory: int | None = None
    """Peak memory so far: of the device on a GPU, of the process on a CPU."""
    waited: float | None = None
    """Seconds spent waiting for the trajectory's files since the previous step."""


class Reproduced(NamedTuple):
    """The replay repeated the last training step and compared the result with the stored one."""

    exact: bool
    """Whether all bits are equal."""
    difference: float = 0.0
    """Relative difference: of the gradient, or of the state if gradients are not stored."""


class Attributed(NamedTuple):
    """An attribution is complete."""

    attribution: str
    queries: int
    created: float | None = None
    """When it was completed, in seconds since 1970."""
    reduction: str | None = None
    granularity: str | None = None
    passes: int | None = None
    reproduced: bool | None = None
    """Whether the last training step was reproduced bit for bit."""
    cotangents: Any = None
    rounding: Any = None
    """Estimated relative rounding error for each query, or null."""


class Submitted(NamedTuple):
    """Retrainings were submitted to a cluster."""

    cluster: str
    jobs: Sequence[str]
    """The cluster's job ids."""
    folder: str
    """Folder of the jobs' logs."""


class RetrainStepped(NamedTuple):
    """A retraining is in progress; written at most once a second."""

    step: int
    """Its step within this retraining."""
    done: int
    """Steps done in all retrainings of the phase."""
    seconds: float
    """Seconds since ``done`` was reported last."""
    subset: str | None = None
    """The subset that is left out."""
    loss: float | None = None


class Retrained(NamedTuple):
    """A retraining is complete and its queries are measured."""

    done: int
    """Steps done in all retrainings of the phase."""
    seconds: float
    """Seconds since ``done`` was reported last."""
    subset: str | None = None
    """The subset that was left out."""
    kind: str | None = None
    """How the subset was drawn."""
    documents: int = 0
    """How many documents were left out."""


class ProbeStepped(NamedTuple):
    """A replay that checks another replay moved back by one step."""

    step: int
    done: int
    """Steps done in the phase."""
    seconds: float
    """Seconds since ``done`` was reported last."""


class Finished(NamedTuple):
    """The job succeeded."""

    work: str = "run"
    """As in ``started``."""


class Failed(NamedTuple):
    """The job failed."""

    message: str
    """What went wrong and what to do about it."""
    exit_code: int = 1


class Interrupted(NamedTuple):
    """The worker was stopped by a signal or by the engine."""

    saved: bool = False
    """Whether it saved its progress first."""


RunEvent = (
    Started | Resumed | Warned | Planned | PhaseStarted | TrainStepped | CheckpointWritten
    | QueryMeasured | PassStarted | StateRebuilt | ReplayStepped | Reproduced
    | Attributed | Submitted | RetrainStepped | Retrained | ProbeStepped | Finished | Failed
    | Interrupted
)  # fmt: skip
"""One event of any kind."""

SCHEMA: dict[Event, type[RunEvent]] = {
    Event.STARTED: Started,
    Event.RESUMED: Resumed,
    Event.WARNING: Warned,
    Event.PLANNED: Planned,
    Event.PHASE: PhaseStarted,
    Event.TRAIN_STEP: TrainStepped,
    Event.CHECKPOINT: CheckpointWritten,
    Event.MEASURED: QueryMeasured,
    Event.PASS: PassStarted,
    Event.REBUILD_STEP: StateRebuilt,
    Event.REPLAY_STEP: ReplayStepped,
    Event.REPRODUCED: Reproduced,
    Event.ATTRIBUTED: Attributed,
    Event.SUBMITTED: Submitted,
    Event.RETRAIN_STEP: RetrainStepped,
    Event.RETRAINED: Retrained,
    Event.PROBE_STEP: ProbeStepped,
    Event.FINISHED: Finished,
    Event.FAILED: Failed,
    Event.INTERRUPTED: Interrupted,
}
"""The class of each kind."""


class _Missing:
    """Stands for a required field that is missing; of no accepted type."""


_Field = tuple[str, tuple[type, ...], Any]
"""Name, accepted types, default."""


def _accepted(annotation: Any) -> tuple[type, ...]:
    if isinstance(annotation, UnionType):
        return tuple(kind for part in annotation.__args__ for kind in _accepted(part))
    if annotation is float:
        return (float, int)
    if annotation is Any:
        return (object,)
    return (list, tuple) if get_origin(annotation) is Sequence else (annotation,)


def _fields(event_class: type[RunEvent]) -> tuple[_Field, ...]:
    defaults = event_class._field_defaults
    return tuple(
        (name, _accepted(annotation), defaults.get(name, _Missing()))
        for name, annotation in event_class.__annotations__.items()
    )


_FIELDS: dict[str, tuple[type[RunEvent], tuple[_Field, ...]]] = {
    str(kind): (event_class, _fields(event_class)) for kind, event_class in SCHEMA.items()
}


def parse(record: Mapping[str, Any]) -> RunEvent | None:
    """The typed event of a journal's record.

    Returns None if the kind is unknown, a required field is missing, or a field has another type
    than its class says.
    """
    schema = _FIELDS.get(record.get("event", ""))
    if schema is None:
        return None
    event_class, fields = schema
    values = []
    for name, accepted, default in fields:
        value = record.get(name, default)
        if not isinstance(value, accepted):
            return None
        values.append(value)
    return event_class._make(values)


def check(kind: str, fields: Mapping[str, Any]) -> None:
    """Check an event before it is written.

    Raises:
        TypeError: if the kind or a field is unknown, or a field is missing or of another type.
    """
    schema = _FIELDS.get(kind)
    if schema is None:
        raise TypeError(f"{kind!r} is not a kind of event")
    for name, accepted, default in schema[1]:
        if not isinstance(fields.get(name, default), accepted):
            problem = f"is {fields[name]!r}" if name in fields else "is missing"
            raise TypeError(f"event {kind}: {name} {problem}")
    unknown = fields.keys() - {name for name, *_ in schema[1]}
    if unknown:
        raise TypeError(f"event {kind}: no field is named {', '.join(sorted(unknown))}")

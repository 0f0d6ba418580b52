"""Requests and responses of the engine's HTTP interface; the source of its OpenAPI document."""

from typing import Annotated, Literal

from pydantic import Field

from engine.runs.config import RunConfig, Section
from engine.runs.events import Phase
from engine.runs.request import AttributionRequest, ValidationRequest, Work
from engine.runs.states import RunState

API_VERSION = 1
RUN_ID = r"^[0-9]{8}T[0-9]{6}-[0-9a-f]{6,8}$"
"""The pattern of run ids, which become parts of paths."""

RunId = Annotated[str, Field(pattern=RUN_ID)]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]
_Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
_Value = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=4096)]
Environment = Annotated[dict[_Variable, _Value], Field(max_length=100)]


class SubmitRun(Section):
    """A run to queue. A repetition with the same id changes nothing, so retries are safe."""

    id: RunId
    runs_dir: AbsolutePath
    config: RunConfig
    environment: Environment = Field(default_factory=dict)


class SubmitAttribution(Section):
    """Queries to attribute with a run's trajectory."""

    request: AttributionRequest
    environment: Environment = Field(default_factory=dict)


class SubmitValidation(Section):
    """Retrainings to validate an attribution of a run."""

    attribution: Annotated[str, Field(max_length=200)] | None = None
    """None for the latest complete one."""
    request: ValidationRequest = ValidationRequest()
    environment: Environment = Field(default_factory=dict)


class PhaseView(Section):
    """The present phase of a run, from its events."""

    phase: Phase
    done: int
    total: int
    step: int | None
    """The present step: the last trained one, or the replay cursor."""
    step_seconds: float | None
    loss: float | None
    remaining_seconds: float | None


class JobView(Section):
    """One job of a run."""

    number: int
    work: Work
    attribution: str | None
    state: RunState
    reason: str | None
    """Why it waits, failed or stopped: one sentence."""
    exit_code: int | None
    """Exit code of a failure, as of the command line."""
    repeats: bool = False
    """Whether another attempt would fail the same way."""
    attempts: int
    queue_position: int | None
    """0 for the next one to start."""
    devices: list[str]


class RunView(Section):
    """A run: its state, progress and size."""

    id: str
    path: str
    name: str
    state: RunState | Literal["unreadable"]
    """The state of its training; later jobs have their own states."""
    reason: str | None
    job: JobView | None
    """The first unfinished job, else the last."""
    jobs: list[JobView]
    model: str
    trust_remote_code: bool
    code: list[str] = Field(default_factory=list)
    """Code that the run executes besides magic and its libraries: a task, a model's own code."""
    created: float | None
    phase: PhaseView | None
    steps: int
    """Steps trained so far."""
    total_steps: int | None
    documents: int | None
    attributions: int
    """How many are complete."""
    trajectory_bytes: int
    scores_bytes: int
    memory: int | None
    """Peak bytes of a rank, on its device or in this machine's memory."""
    events: int
    """The number of events in its journal: the id of the next one."""

    @classmethod
    def blank(cls, run_id: str, path: str, state: str, reason: str | None) -> "RunView":
        """The view of a run that cannot be read."""
        return cls.model_validate(
            {
                "id": run_id, "path": path, "name": "", "state": state, "reason": reason,
                "job": None, "jobs": [], "model": "", "trust_remote_code": False, "created": None,
                "phase": None, "steps": 0, "total_steps": None, "documents": None,
                "attributions": 0, "trajectory_bytes": 0, "scores_bytes": 0, "memory": None,
                "events": 0,
            }
        )  # fmt: skip


class RunList(Section):
    """The runs of a folder, oldest first."""

    runs: list[RunView]


class DeviceView(Section):
    """A GPU; unknown values are null."""

    id: str
    name: str
    memory_used: int | None
    memory_total: int | None
    run: str | None
    """The run that holds its lease."""


class EngineView(Section):
    """The engine and its machine."""

    api_version: int
    version: str
    pid: int
    started: float
    socket: str
    devices: list[DeviceView]
    memory_used: int
    memory_total: int
    disk_free: int
    disk_floor: int
    """New jobs wait while fewer bytes are free."""
    queued: int
    running: int


class Telemetry(Section):
    """Present use of the machine, sent with a run's events."""

    memory_used: int
    memory_total: int
    disk_free: int | None
    """On the disk of the run's folder."""
    devices: list[DeviceView]


class FolderView(Section):
    """A folder of runs that was allowed or forgotten."""

    runs_dir: str
    jobs: int
    """How many of its jobs were dequeued."""


class CodeView(Section):
    """The code that a run loads."""

    code: list[str]
    accepted: bool
    """Whether this engine may load it: it was submitted here, or accepted as it is now."""


class Removed(Section):
    """What a removal freed."""

    removed: str
    freed_bytes: int


class Problem(Section):
    """An error: one sentence with the fault, its place and the remedy."""

    message: str
    exit_code: int

"""What the engine's HTTP interface takes and gives; its OpenAPI document is made from these."""

from typing import Annotated, Literal

from pydantic import Field

from engine.runs.config import RunConfig, Section
from engine.runs.events import Phase
from engine.runs.request import AttributionRequest, ValidationRequest, Work
from engine.runs.states import RunState

API_VERSION = 1
RUN_ID = r"^[0-9]{8}T[0-9]{6}-[0-9a-f]{6,8}$"
"""Run ids are made by the tool and are the only part of a request that names a folder in one."""

RunId = Annotated[str, Field(pattern=RUN_ID)]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00]*$", max_length=4096)]
_Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]
_Value = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=4096)]
Environment = Annotated[dict[_Variable, _Value], Field(max_length=100)]


class SubmitRun(Section):
    """A run to be queued. Asking again with the same id changes nothing: retries are safe."""

    id: RunId
    runs_dir: AbsolutePath
    config: RunConfig
    environment: Environment = Field(default_factory=dict)


class SubmitAttribution(Section):
    """Queries to be asked of a run's kept trajectory."""

    request: AttributionRequest
    environment: Environment = Field(default_factory=dict)


class SubmitValidation(Section):
    """Retrainings that an attribution of a run is checked against."""

    attribution: Annotated[str, Field(max_length=200)] | None = None
    """The latest complete one if left out."""
    request: ValidationRequest = ValidationRequest()
    environment: Environment = Field(default_factory=dict)


class PhaseView(Section):
    """The phase that a run is in, as its latest events tell."""

    phase: Phase
    done: int
    total: int
    step: int | None
    """The step it is at: the last trained one, or the replay cursor."""
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
    """Exit code of a failure, by the table of the command line."""
    repeats: bool = False
    """Whether it would fail again if it were resumed as it is."""
    attempts: int
    queue_position: int | None
    """0 for the next one to start."""
    devices: list[str]


class RunView(Section):
    """A run: where it stands, what it does and what it occupies."""

    id: str
    path: str
    name: str
    state: RunState | Literal["unreadable"]
    """That of its training, whatever became of later jobs: each has its own."""
    reason: str | None
    job: JobView | None
    """The first unfinished job, else the last."""
    jobs: list[JobView]
    model: str
    trust_remote_code: bool
    code: list[str] = Field(default_factory=list)
    """What the run executes besides magic and its libraries: its task's code, its model's own."""
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
    """Bytes its rank held at most, on its device or in this machine's memory."""
    events: int
    """The number of events in its journal: the id of the next one."""

    @classmethod
    def blank(cls, run_id: str, path: str, state: str, reason: str | None) -> "RunView":
        """A run of which only this is known."""
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
    """A GPU; what is not known is null, never 0."""

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
    """New work waits while less than this is free."""
    queued: int
    running: int


class Telemetry(Section):
    """What the machine is used for now, beside a run's events."""

    memory_used: int
    memory_total: int
    disk_free: int | None
    """On the disk of the run's folder."""
    devices: list[DeviceView]


class FolderView(Section):
    """A folder of runs that was allowed or forgotten."""

    runs_dir: str
    jobs: int
    """How many jobs that waited there are no longer started."""


class CodeView(Section):
    """The code that a run brings."""

    code: list[str]
    accepted: bool
    """Whether this engine may load it: it made the run, or its user accepted the code as it is."""


class Removed(Section):
    """What a removal freed."""

    removed: str
    freed_bytes: int


class Problem(Section):
    """An error: one sentence that says what, where and what to do."""

    message: str
    exit_code: int

"""The run config: every field a run is a function of, its defaults and its checks.

``read_config`` turns a YAML file into a :class:`RunConfig`; any mistake becomes one
:class:`~engine.runs.errors.UsageError` that names the file, the key and the remedy.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Dtype = Literal["float32", "float64", "bfloat16"]
Reduction = Literal["none", "mean", "sum"]
Granularity = Literal["token", "document"]
CheckpointingName = Literal["all", "gradients", "sqrt", "log", "auto"]
Forced = Literal["dropout", "bfloat16", "derivative"]

ALL_LINEAR = "all-linear"
"""In place of names of layers: every linear layer but the head."""
CAUSAL_LM, IMAGE_CLASSIFICATION = "causal_lm", "image_classification"
_OWN_TASK = re.compile(r"[^:]+:[A-Za-z_]\w*")


def _as_names(value: Any) -> Any:
    if not value:
        raise ValueError(f"name at least one layer, or {ALL_LINEAR}")
    return (value,) if isinstance(value, str) else value


def _as_task(value: str) -> str:
    if value in (CAUSAL_LM, IMAGE_CLASSIFICATION) or _OWN_TASK.fullmatch(value):
        return value
    raise ValueError(
        f"{value!r} is no task; name {CAUSAL_LM}, {IMAGE_CLASSIFICATION}, or module:object"
    )


class Section(BaseModel):
    """One block of the config: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraConfig(Section):
    """Low-rank adapters, trained in place of the model itself, which stays as it is.

    ``target_modules`` are names of linear or embedding layers, or ends of such names after a
    dot; or ``all-linear``. An adapter is scaled by alpha / rank.
    """

    rank: PositiveInt = 8
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    target_modules: Annotated[tuple[str, ...], BeforeValidator(_as_names)]

    @model_validator(mode="after")
    def _all_or_names(self) -> "LoraConfig":
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            raise ValueError(f"target_modules: {ALL_LINEAR} stands alone; leave the names out")
        return self


class ModelConfig(Section):
    """Which model to train, and in which arithmetic."""

    path: str
    """A causal language model of transformers; for images the name of a model that ships."""
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)
    """What a model that ships, or a task of one's own, can be told; language models take none."""
    revision: str | None = None
    from_scratch: bool = False
    dtype: Dtype = "float32"
    dropout: Literal[0] | None = None
    trust_remote_code: bool = False
    lora: LoraConfig | None = None


class SourceConfig(Section):
    """Where documents are read from and which columns hold their text."""

    path: str
    subset: str | None = None
    split: str = "train"
    text_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None

    @model_validator(mode="after")
    def _text_or_prompt_and_completion(self) -> "SourceConfig":
        pair = (self.prompt_column, self.completion_column)
        if self.text_column is not None and pair != (None, None):
            raise ValueError("give text_column, or prompt_column with completion_column, not both")
        if (self.prompt_column is None) != (self.completion_column is None):
            raise ValueError("prompt_column and completion_column go together")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are tokenised: one of text, or a prompt and its completion."""
        if self.prompt_column is not None and self.completion_column is not None:
            return (self.prompt_column, self.completion_column)
        return (self.text_column or "text",)


class DataConfig(SourceConfig):
    """The training documents and how they become rows."""

    sequence_length: Annotated[int, Field(ge=2)] = 512
    packing: bool = False
    strict: bool = False
    """Refuse documents with nothing to predict rather than leave them out."""


class OptimizerConfig(Section):
    """The optimizer and its constants; ``betas`` and ``eps`` serve Adam(W), ``momentum`` SGD."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: NonNegative = 1.0e-4
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: NonNegative = 1.0e-8
    eps_root: NonNegative = 1.0e-8
    weight_decay: NonNegative = 0.0
    momentum: Decay = 0.0
    bias_lr_multiplier: NonNegative = 1.0
    """Learning rate of parameters named ``bias``, as a factor of the others'."""


class LRScheduleConfig(Section):
    """How the learning rate moves from step to step."""

    name: Literal["constant", "linear", "cosine", "one_cycle"] = "constant"
    warmup_fraction: Fraction = 0.0
    peak_fraction: Fraction = 0.25
    start_factor: NonNegative = 0.0
    end_factor: NonNegative = 0.0


class TrainingConfig(Section):
    """Length, batching, optimizer and order of the training."""

    epochs: PositiveInt = 1
    batch_size: PositiveInt = 16
    micro_batch_size: PositiveInt | Literal["auto"] | None = None
    """Rows of a rank that are differentiated at a time; all if null. ``auto``: as many as the
    memory allows when the run is prepared, and as many ever after."""
    activation_checkpointing: bool = False
    """Compute activations again layer by layer rather than keeping them: a micro-batch then takes
    the memory of one layer, and more time."""
    optimizer: OptimizerConfig = OptimizerConfig()
    lr_schedule: LRScheduleConfig = LRScheduleConfig()
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = None
    shuffle: bool = True


class QueriesConfig(SourceConfig):
    """The documents asked about and how their losses become measurements."""

    reduction: Reduction = "none"
    contrast: SourceConfig | None = None

    @model_validator(mode="after")
    def _contrast_needs_one_measurement(self) -> "QueriesConfig":
        if self.contrast is not None and self.reduction == "none":
            raise ValueError("contrast needs reduction: mean or sum")
        return self


class AttributionConfig(Section):
    """What is kept of the scores, how exact they are and how much memory a replay may take."""

    granularity: Granularity = "token"
    memory_budget_gb: Annotated[float, Field(gt=0.0)] | None = None
    """What a replay may take beside the train states, filled with queries; if null a share of what
    is free, of which a CPU takes as much as saves time (:mod:`engine.cost.passes`)."""


class TrajectoryConfig(Section):
    """Which train states are kept on disk while training."""

    checkpointing: CheckpointingName = "auto"
    memory_gb: NonNegative | None = None
    """How much of it stays in this machine's memory as well, so that a replay need not wait for
    the disk; if null one train state on a CPU, a share of what is free beside a GPU; nothing is
    read ahead if 0."""


class DevicesConfig(Section):
    """The ranks that share the work, in groups that divide the model among themselves."""

    ranks: PositiveInt | None = None
    """On one machine; all its GPUs if left out, else 1."""
    nodes: PositiveInt = 1
    shards: PositiveInt | Literal["auto"] = "auto"
    """Ranks that the model is divided among; groups of so many replay different queries."""


class RunConfig(Section):
    """Everything a run is a function of."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = "run"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    task: Annotated[str, AfterValidator(_as_task)] = CAUSAL_LM
    """What is trained and measured; ``module:object`` is an :class:`engine.ExampleTask`."""
    model: ModelConfig
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    queries: QueriesConfig | None = None
    attribution: AttributionConfig = AttributionConfig()
    trajectory: TrajectoryConfig = TrajectoryConfig()
    devices: DevicesConfig = DevicesConfig()
    force: tuple[Forced, ...] = ()

    @property
    def has_tokens(self) -> bool:
        """Whether documents consist of tokens that have scores of their own."""
        return self.task == CAUSAL_LM

    @model_validator(mode="before")
    @classmethod
    def _no_tokens_no_token_scores(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("task", CAUSAL_LM) == CAUSAL_LM:
            return values
        attribution = values.get("attribution") or {}
        if not isinstance(attribution, dict):
            return values
        return {**values, "attribution": {"granularity": "document", **attribution}}

    @model_validator(mode="after")
    def _fits_the_task(self) -> "RunConfig":
        if self.has_tokens:
            if self.model.options:
                raise ValueError("model.options: language models take none; leave them out")
            return self
        if self.attribution.granularity == "token":
            raise ValueError(
                f"attribution.granularity: the task {self.task} has no tokens; leave it out"
            )
        if self.model.lora is not None:
            raise ValueError("model.lora: adapters are for language models; leave it out")
        if self.data.packing:
            raise ValueError("data.packing: only texts can be packed; leave it out")
        if self.data.strict:
            raise ValueError("data.strict: only texts are left out; leave it out")
        return self

    def digest(self) -> str:
        """SHA-256 of the resolved config, independent of key order and of the file's layout."""
        values = self.model_dump(mode="json")
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def as_plain(section: BaseModel) -> dict[str, Any]:
    """A section as plain YAML- and JSON-ready values, defaults filled in."""
    return section.model_dump(mode="json")

"""The run config: every key, its default, its meaning and its checks.

The docstring under a field is its entry in the config reference.

``read_config`` turns a YAML file into a :class:`RunConfig`; any mistake becomes one
:class:`~engine.runs.errors.UsageError` that names the file, the key and the remedy.
"""

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

from engine.runs.checksummed import digest_of

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
"""Instead of names of layers: every linear layer except the head."""
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
    """A section of the config: unknown keys are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LoraConfig(Section):
    """Low-rank adapters (LoRA, arXiv 2106.09685), trained instead of the model's own weights."""

    rank: PositiveInt = 8
    """Rank of each adapter: the inner dimension of its two factors."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """Scale of an adapter's output: it is multiplied by ``alpha / rank``."""
    target_modules: Annotated[tuple[str, ...], BeforeValidator(_as_names)]
    """Linear or embedding layers to adapt: their names, or ends of their names after a dot such
    as ``q_proj``; or ``all-linear`` for every linear layer except the head."""

    @model_validator(mode="after")
    def _all_or_names(self) -> "LoraConfig":
        if ALL_LINEAR in self.target_modules and len(self.target_modules) > 1:
            raise ValueError(
                f"target_modules: {ALL_LINEAR} cannot be combined with names; remove the names"
            )
        return self


class ModelConfig(Section):
    """The model to train and its arithmetic."""

    path: str
    """A causal language model: a hub id or a local folder. For ``image_classification``, the
    name of a built-in model: ``cnn`` or ``resnet9``."""
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)
    """Constructor arguments of a built-in image model, or values that your own task reads.
    Language models have none."""
    revision: str | None = None
    """Branch, tag or commit of a hub model. The run records the commit that it resolves to."""
    from_scratch: bool = False
    """Draw new weights from ``seed`` instead of loading the model's weights."""
    dtype: Dtype = "float32"
    """Arithmetic of training and replay. ``bfloat16`` is refused unless ``force`` lists it."""
    dropout: Literal[0] | None = None
    """``0`` switches the model's dropout off. A model with dropout is refused otherwise, unless
    ``force`` lists ``dropout``."""
    trust_remote_code: bool = False
    """Run Python code that the model's folder or hub repository contains."""
    lora: LoraConfig | None = None
    """Train low-rank adapters on the frozen model instead of the model itself."""


class SourceConfig(Section):
    """A source of documents and the columns of their text."""

    path: str
    """A local jsonl, json, csv, parquet or txt file, a folder saved by ``datasets``, or a hub
    id."""
    subset: str | None = None
    """Configuration of a hub data set, such as ``wikitext-2-raw-v1``."""
    split: str = "train"
    """Split of the data set, with an optional slice: ``train[:1000]``."""
    text_column: str | None = None
    """Column of the text; ``text`` if null. Not together with ``prompt_column``."""
    prompt_column: str | None = None
    """Column of a prompt that is input only: it has no loss and no scores. Needs
    ``completion_column``."""
    completion_column: str | None = None
    """Column of the text that follows the prompt, whose tokens are predicted and scored."""

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
    """The training documents, and how they become rows."""

    sequence_length: Annotated[int, Field(ge=2)] = 512
    """Tokens of a row. Longer documents are cut; the number of cut documents is reported."""
    packing: bool = False
    """Join documents into full rows of ``sequence_length`` tokens instead of one document a
    row."""
    strict: bool = False
    """Refuse the run if a document has no token to predict. Such documents are otherwise left
    out and counted."""


class OptimizerConfig(Section):
    """The optimizer and its constants.

    ``betas``, ``eps`` and ``eps_root`` are those of Adam and AdamW, ``momentum`` is that of SGD.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """``adamw`` (decoupled weight decay), ``adam`` (L2 in the gradient) or ``sgd``."""
    learning_rate: NonNegative = 1.0e-4
    """Peak learning rate; ``lr_schedule`` multiplies it by a factor at every step."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of Adam's first and second moments."""
    eps: NonNegative = 1.0e-8
    """Added to Adam's denominator after the square root."""
    eps_root: NonNegative = 1.0e-8
    """Added under the square root of Adam's second moment: m / (√(v + eps_root) + eps). With 0
    the update has no derivative where a gradient is 0; larger values make scores more stable."""
    weight_decay: NonNegative = 0.0
    """Weight decay of all trained parameters."""
    momentum: Decay = 0.0
    """Momentum of SGD."""
    bias_lr_multiplier: NonNegative = 1.0
    """Factor on the learning rate of parameters named ``bias``."""


class LRScheduleConfig(Section):
    """The factor on the learning rate as a function of the step.

    ``one_cycle`` is linear from ``start_factor`` to 1 at ``peak_fraction`` of the training and
    from there to ``end_factor``. The others rise linearly from 0 over ``warmup_fraction``; then
    ``constant`` stays at 1, ``linear`` falls to 0, and ``cosine`` falls to 0 as (1 + cos πx) / 2.
    """

    name: Literal["constant", "linear", "cosine", "one_cycle"] = "constant"
    """Shape of the factor on the learning rate over the steps."""
    warmup_fraction: Fraction = 0.0
    """Share of the steps over which the factor rises linearly from 0 to 1. Not used by
    ``one_cycle``."""
    peak_fraction: Fraction = 0.25
    """Share of the steps after which ``one_cycle`` reaches 1."""
    start_factor: NonNegative = 0.0
    """Factor at the first step of ``one_cycle``."""
    end_factor: NonNegative = 0.0
    """Factor at the end of ``one_cycle``."""


class TrainingConfig(Section):
    """Length, batches, optimizer and order of the training."""

    epochs: PositiveInt = 1
    """Passes through the data."""
    batch_size: PositiveInt = 16
    """Rows of a step, over all ranks. The last batch of an epoch may be smaller."""
    micro_batch_size: PositiveInt | Literal["auto"] | None = None
    """Rows of a rank that are differentiated at a time; all if null. ``auto`` chooses as many
    as the memory allows when the run is prepared and stores the number with the run."""
    activation_checkpointing: bool = False
    """Recompute activations layer by layer instead of storing them. A micro-batch then needs
    the memory of one layer, and about a quarter more time."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Optimizer and its constants."""
    lr_schedule: LRScheduleConfig = LRScheduleConfig()
    """Learning-rate schedule."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Clip gradients to this global norm, inside the differentiated step; no clipping if null."""
    shuffle: bool = True
    """Draw a new order of the rows from ``seed`` in every epoch. Otherwise the order of the
    data."""


class QueriesConfig(SourceConfig):
    """The query documents, and how their losses become measurements φ."""

    reduction: Reduction = "none"
    """``none``: one measurement φ for each query, its mean loss. ``mean`` or ``sum``: one φ for
    all queries together."""
    contrast: SourceConfig | None = None
    """A second source, whose reduced loss is subtracted: φ = φ(queries) − φ(contrast). Needs
    ``reduction: mean`` or ``sum``."""

    @model_validator(mode="after")
    def _contrast_needs_one_measurement(self) -> "QueriesConfig":
        if self.contrast is not None and self.reduction == "none":
            raise ValueError("contrast needs reduction: mean or sum")
        return self


class AttributionConfig(Section):
    """Which scores are stored, and the memory of a replay."""

    granularity: Granularity = "token"
    """``token`` stores a score for each token and document; ``document`` only for each
    document, in smaller files."""
    memory_budget_gb: Annotated[float, Field(gt=0.0)] | None = None
    """Memory in GB that a replay may use beside the train states; as many queries as fit are
    replayed together. If null, a GPU is filled from its free memory, and a CPU replays as many
    together as save time."""


class TrajectoryConfig(Section):
    """Storage of the train states on disk and in memory."""

    checkpointing: CheckpointingName = "auto"
    """What training stores on disk besides the last state: every state and every gradient
    (``all``), every gradient and every ⌈√T⌉-th state (``gradients``), every ⌈√T⌉-th state
    (``sqrt``), the first state (``log``), or the fastest of these that fits (``auto``). Scores are
    the same bits with each."""
    memory_gb: NonNegative | None = None
    """Memory in GB for caching and reading ahead the trajectory during a replay. If null, one
    train state on a CPU and half of the free memory beside a GPU; with 0 nothing is cached.
    Scores do not depend on it."""


class DevicesConfig(Section):
    """Ranks (processes) that share the work, in groups that divide the model among themselves."""

    ranks: PositiveInt | None = None
    """Processes on one machine, one for each GPU; all GPUs if null, 1 without a GPU."""
    shards: PositiveInt | Literal["auto"] = "auto"
    """Ranks that the model is divided among; the groups of this size replay different queries.
    ``auto`` chooses the fewest that can hold the model."""


class RunConfig(Section):
    """Everything that determines a run, besides the data and the hardware.

    Equal configs on equal data give equal scores, bit for bit, on the same hardware and libraries
    with the same number of ranks. Otherwise rounding differs.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)] = "run"
    """Label of the run in lists. It need not be unique."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Draws the order of the rows, new weights (``from_scratch``, adapters, image models, your
    own task) and forced dropout masks."""
    task: Annotated[str, AfterValidator(_as_task)] = CAUSAL_LM
    """``causal_lm``, ``image_classification``, or ``module:object`` for an
    :class:`engine.ExampleTask` of your own, where the module is a file next to the config or
    installed."""
    model: ModelConfig
    """Model to train."""
    data: DataConfig
    """Training documents."""
    training: TrainingConfig = TrainingConfig()
    """Length, batches, optimizer and order of the training."""
    queries: QueriesConfig | None = None
    """Documents whose loss is attributed. Optional: queries can be added later with ``magic
    attribute``."""
    attribution: AttributionConfig = AttributionConfig()
    """Which scores are stored, and the memory of the replay."""
    trajectory: TrajectoryConfig = TrajectoryConfig()
    """Storage of the trajectory."""
    devices: DevicesConfig = DevicesConfig()
    """Processes and GPUs."""
    force: tuple[Forced, ...] = ()
    """Checks to override: ``dropout``, ``bfloat16``, ``derivative``. Forcing
    ``derivative`` makes the verdict ✗."""

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
        return digest_of(as_plain(self))


def as_plain(section: BaseModel) -> dict[str, Any]:
    """A section as plain YAML- and JSON-ready values, defaults filled in."""
    return section.model_dump(mode="json")

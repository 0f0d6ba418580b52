"""A task of examples with one loss each: what a user writes to train a model of their own."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from engine.data.examples import Columns, Examples
from engine.runs.config import RunConfig, SourceConfig


class ExampleTask(ABC):
    """How examples are read, which model is trained on them, and what is measured.

    ``task: module:object`` in a config names a subclass that takes no arguments, or an object of
    one. Everything has to be a function of the arguments alone, or a run could not be repeated.
    """

    @abstractmethod
    def read_data(self, source: SourceConfig, where: str) -> Examples:
        """The examples of ``data``, ``queries`` or ``queries.contrast``.

        Args:
            source: what the config says of it.
            where: its key, for messages.

        Raises:
            UsageError: in one sentence, for whatever is wrong with it.
        """

    @abstractmethod
    def build_model(self, config: RunConfig, columns: Columns) -> nn.Module:
        """The untrained model, its weights drawn from torch's generator, which is seeded.

        Args:
            config: of the run; ``config.model.options`` is free for the task.
            columns: those of the training data, (examples, …) each.
        """

    @abstractmethod
    def losses(self, model: nn.Module, columns: dict[str, Tensor]) -> Tensor:
        """(examples,) The training loss of each, twice differentiable; the model is in train mode.

        Args:
            model: with the parameters of the step.
            columns: (examples, …) of a batch.
        """

    def measure(self, model: nn.Module, columns: dict[str, Tensor]) -> Tensor:
        """(examples,) What is asked about: φ of a query, unless overridden its training loss.

        The model is in eval mode.
        """
        return self.losses(model, columns)

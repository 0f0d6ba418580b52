"""Create the task that a config names."""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from engine.runs.config import CAUSAL_LM, IMAGE_CLASSIFICATION, RunConfig
from engine.runs.errors import UsageError
from engine.tasks.causal_lm import CausalLM
from engine.tasks.examples import ExampleRun
from engine.tasks.image_classification import ImageClassification
from engine.tasks.task import ExampleTask, Origins, Prepared, Task
from engine.tasks.user_code import Copy, load_module


def prepare_task(config: RunConfig, device: torch.device) -> Prepared:
    """Read the data and load the model of a config.

    Raises:
        UsageError: if the data, the model or the task cannot be used.
    """
    if config.task == CAUSAL_LM:
        return CausalLM.prepare(config, device)
    return ExampleRun.prepare(_example_task(config.task, {}), config, device)


def restore_task(
    config: RunConfig, arrays: Mapping[str, NDArray[Any]], device: torch.device, origins: Origins
) -> Task:
    """The task of a prepared run, from its stored rows.

    Raises:
        UsageError: if the model or the task cannot be loaded any more.
    """
    if config.task == CAUSAL_LM:
        return CausalLM.restore(config, arrays, device, origins)
    return ExampleRun.restore(_example_task(config.task, origins.code), config, arrays, device)


def _example_task(name: str, copies: Mapping[str, Copy]) -> ExampleTask:
    if name == IMAGE_CLASSIFICATION:
        return ImageClassification()
    module, _, attribute = name.rpartition(":")
    try:
        value = getattr(load_module(module, copies), attribute)
        task = value() if isinstance(value, type) else value
    except Exception as error:
        raise UsageError(
            f"task: {name} cannot be loaded ({type(error).__name__}: {error}); name a Python file "
            "or an installed module, and an engine.ExampleTask in it"
        ) from error
    if not isinstance(task, ExampleTask):
        raise UsageError(f"task: {name} is not an engine.ExampleTask; make it a subclass")
    return task

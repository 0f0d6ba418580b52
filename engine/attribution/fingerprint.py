"""The fingerprint of a run: its inputs, recorded when it is prepared and compared by later jobs.

The record is ``fingerprint`` in the facts of ``prepared.json``:

    weights    by name, a digest of each tensor that was loaded or drawn, frozen ones included
    data       a digest of the rows
    model      where a language model came from: its files, the commit of the hub, its own code
    code       by module, the files of a user's task
    libraries  the versions of the libraries that compute

Weights are compared as loaded in memory, so the cause of a change does not matter. The run keeps
copies of the model's config, its tokenizer and a task's code. If the originals have changed, the
copies are used, with a warning.
"""

import contextlib
import hashlib
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from engine.models.load import LoadedModel
from engine.runs.config import CAUSAL_LM, IMAGE_CLASSIFICATION, ModelConfig, RunConfig
from engine.runs.environment import magic_version
from engine.runs.errors import RunError
from engine.runs.inputs import (
    COPIES_FOLDER,
    InputFile,
    combined,
    copies_to_use,
    differing,
    file_digest,
    listed,
    refused,
)
from engine.runs.run_folder import RunFolder
from engine.tasks.task import Origins, Rows, Task
from engine.tasks.user_code import Copy, code_files

_LIBRARIES = ("torch", "transformers", "torchopt", "peft", "tokenizers", "numpy", "safetensors")
_READ = (
    *("config.json", "generation_config.json", "*tokenizer*", "*vocab*", "merges*", "*.model"),
    *("special_tokens_map.json", "added_tokens.json", "tekken.json", "*.tiktoken", "*.jinja"),
)
"""Patterns of the files of a model's config and tokenizer."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
_REMOTE = "transformers_modules"
"""The package into which transformers loads a model's own code."""


def record_fingerprint(
    folder: RunFolder, config: RunConfig, task: Task, weights: Mapping[str, str]
) -> dict[str, Any]:
    """The fingerprint of a run; its small files are copied into the run.

    Args:
        folder: the run's folder.
        config: the run's config.
        task: the prepared task, with all its imports loaded.
        weights: by name, the digests of its tensors before training.
    """
    facts: dict[str, Any] = {
        "weights": dict(weights),
        "data": rows_digest(task.rows),
        "libraries": libraries(),
    }
    copies = folder.path / COPIES_FOLDER
    if config.task == CAUSAL_LM:
        facts["model"] = _model_facts(copies / "model", config.model, task.model)
    elif config.task != IMAGE_CLASSIFICATION:
        facts["code"] = _code_facts(copies / "code", config.task.rpartition(":")[0])
    return facts


class Fingerprint:
    """The fingerprint of one run, and the differences found from it."""

    def __init__(self, folder: RunFolder) -> None:
        """Read the fingerprint.

        Raises:
            RunError: if the run was never prepared, or the record is damaged.
        """
        self._folder, self._config = folder, folder.config()
        self._facts: dict[str, Any] = folder.prepared()["fingerprint"]
        self.warnings: list[str] = []
        """A sentence for each difference that does not end the job."""
        before, now = self._facts["libraries"], libraries()
        # compute_as_before() reports the version of torch.
        changed = [name for name in differing(before, now) if name != "torch"]
        if changed:
            versions = [f"{n} {before.get(n)} then, {now.get(n)} now" for n in changed]
            self.warnings.append(
                f"other versions of libraries than when the run was prepared ({listed(versions)}): "
                "scores may differ"
            )

    def origins(self) -> Origins:
        """The files from which to load the run's model and task, compared with the fingerprint.

        Raises:
            UsageError: naming a changed file of which the run has no intact copy.
        """
        model, code = self._facts.get("model"), self._facts.get("code")
        return Origins(
            model_files=self._model_files(model) if model else None,
            commit=model["commit"] if model else None,
            code=self._code(code) if code else {},
        )

    def check(self, task: Task, weights: Mapping[str, str]) -> None:
        """Compare a loaded task with the fingerprint.

        Raises:
            UsageError: if the model's weights or its own code changed.
            RunError: if the rows of the run changed.
        """
        if rows_digest(task.rows) != self._facts["data"]:
            raise RunError(
                f"{self._folder.rows_store} does not contain the rows of the prepared run; "
                "restore it from a backup, or run the config again as a new run"
            )
        self.check_model(task.model, weights)

    def check_model(
        self, loaded: LoadedModel, weights: Mapping[str, str], besides: Iterable[str] = ()
    ) -> None:
        """Compare the model's own code and its weights, except those named in ``besides``.

        Raises:
            UsageError: if they changed.
        """
        model = self._facts.get("model")
        if model and (other := differing(model["code"], _remote_code(loaded))):
            raise refused(f"{listed(other)}, code of the model {self._config.model.path},")
        other = differing(self._facts["weights"], weights)
        if other := [name for name in other if name not in set(besides)]:
            raise refused(self._what(), self._which(other, len(weights)))

    def _what(self) -> str:
        config = self._config
        if config.task != CAUSAL_LM:
            return f"the weights that task {config.task} gives its model"
        if config.model.from_scratch:
            return f"the weights that are drawn for {config.model.path} from seed {config.seed}"
        return f"the weights of {config.model.path}"

    def _which(self, other: list[str], count: int) -> str:
        """Details of changed weights: files, tensors and library versions."""
        model = self._facts.get("model")
        files = differing(model["weights"], _weights_files(Path(model["folder"]))) if model else []
        before, now = self._facts["libraries"], libraries()
        versions = [f"{n} {before.get(n)} then, {now.get(n)} now" for n in differing(before, now)]
        tensors = listed(name.removeprefix("model.") for name in other)
        return "; ".join([*files[:1], f"{tensors}, of {count} tensors", *versions])

    def _model_files(self, model: dict[str, Any]) -> Path | None:
        folder, copies = Path(model["folder"]), self._folder.path / COPIES_FOLDER / "model"
        if model["commit"] is not None and not folder.is_dir():
            # The hub's cache was emptied or moved; the commit identifies the files.
            return None
        files = [
            InputFile(name, folder / name, copies / name, digest)
            for name, digest in model["files"].items()
        ]
        # A snapshot of the hub may gain more files of its commit.
        added = (
            _small_files(folder, ()) - model["files"].keys() if model["commit"] is None else set()
        )
        where = self._config.model.path
        if model["code"] and (changed := [*(f.name for f in files if f.is_changed), *added]):
            # transformers would search for the model's own code beside the copy.
            raise refused(f"{listed(changed)} of {where}")
        warning = copies_to_use(files, sorted(added), where)
        if warning is None:
            return None
        self.warnings.append(warning)
        return copies

    def _code(self, code: dict[str, dict[str, str]]) -> dict[str, Copy]:
        copies = self._folder.path / COPIES_FOLDER / "code"
        files = {
            module: InputFile(
                Path(each["file"]).name, Path(each["file"]), copies / each["copy"], each["sha256"]
            )
            for module, each in code.items()
        }
        where = f"task {self._config.task}"
        for file in files.values():
            if file.is_changed and file.original.suffix != ".py":
                raise refused(f"{file.original} of {where}")
        warning = copies_to_use(files.values(), [], where)
        if warning is None:
            return {}
        self.warnings.append(warning)
        return {module: Copy(file.original, file.copy) for module, file in files.items()}


def libraries() -> dict[str, str]:
    """The versions of the installed libraries that compute."""
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {**versions, "magic": magic_version()}


def rows_digest(rows: Rows) -> str:
    """SHA-256 of the training rows."""
    digest = hashlib.sha256()
    for name, array in sorted(rows.arrays().items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def identity_of(facts: dict[str, Any]) -> str:
    """A short digest of a run's inputs, without the versions of libraries."""
    model = facts.get("model") or {"files": {}, "code": {}}
    code = {name: each["sha256"] for name, each in facts.get("code", {}).items()}
    parts = (facts["weights"], {"rows": facts["data"]}, model["files"], model["code"], code)
    return combined({str(number): combined(part) for number, part in enumerate(parts)})[:16]


def _model_facts(copies: Path, config: ModelConfig, loaded: LoadedModel) -> dict[str, Any]:
    folder = _folder_of(config)
    tokenizer = getattr(loaded, "tokenizer", None)
    vocabulary = getattr(tokenizer, "vocab_files_names", {}).values()
    files = [
        InputFile.store(name, folder / name, copies / name)
        for name in sorted(_small_files(folder, vocabulary))
    ]
    return {
        "folder": str(folder),
        "commit": None if Path(config.path).is_dir() else folder.name,
        "files": {file.name: file.sha256 for file in files},
        "weights": _weights_files(folder),
        "code": _remote_code(loaded),
    }


def _code_facts(copies: Path, place: str) -> dict[str, dict[str, str]]:
    facts = {}
    for number, (module, file) in enumerate(sorted(code_files(place).items())):
        name = f"{number:03}-{file.name}"
        copy = InputFile.store(module, file, copies / name)
        facts[module] = {"file": str(file), "copy": name, "sha256": copy.sha256}
    return facts


def _folder_of(config: ModelConfig) -> Path:
    """The folder of a model's files: ``model.path``, or the hub's snapshot, named by its commit."""
    folder = Path(config.path)
    if folder.is_dir():
        return folder
    from transformers.utils import cached_file

    file = cached_file(config.path, "config.json", revision=config.revision, local_files_only=True)
    return Path(str(file)).parent


def _small_files(folder: Path, vocabulary: Iterable[str]) -> set[str]:
    """The names of the files in a folder that belong to a model's config and tokenizer."""
    patterns = (*_READ, *vocabulary)
    files = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return {file.name for file in files if file.suffix not in _WEIGHTS}


def _weights_files(folder: Path) -> dict[str, list[int]]:
    """By name, size and modification time of weight files: hints which of them changed."""
    files = {}
    for file in sorted(folder.glob("*")):
        if file.suffix in _WEIGHTS and file.is_file():
            status = file.stat()
            files[file.name] = [status.st_size, status.st_mtime_ns]
    return files


def _remote_code(loaded: LoadedModel) -> dict[str, str]:
    """By file name, digests of the code of a model and its tokenizer."""
    network = _network(loaded)
    parts = (network, network.config, getattr(loaded, "tokenizer", None))
    packages = {type(part).__module__.rpartition(".")[0] for part in parts}
    digests = {}
    for name, module in list(sys.modules.items()):
        package, file = name.rpartition(".")[0], getattr(module, "__file__", None)
        if package.partition(".")[0] == _REMOTE and package in packages and file:
            digests[Path(file).name] = file_digest(Path(file)) or ""
    return digests


def _network(loaded: LoadedModel) -> Any:
    """The transformers model inside a loss."""
    return loaded.loss.model

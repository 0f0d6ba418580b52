"""The code that loading a run executes: that of its task and of its model."""

import hashlib
from pathlib import Path

from engine.runs.config import CAUSAL_LM, IMAGE_CLASSIFICATION, RunConfig
from engine.runs.errors import RunError
from engine.runs.safe_open import read_file


def code_of(config: RunConfig) -> list[str]:
    """The code that is executed besides magic and its libraries, one line for each."""
    code = []
    if config.task not in (CAUSAL_LM, IMAGE_CLASSIFICATION):
        place, _, name = config.task.rpartition(":")
        file = Path(place)
        if file.suffix == ".py":
            code.append(f"{file.name}:{name} from {file.parent}")
        else:
            code.append(f"{name} of the module {place}")
    if config.model.trust_remote_code:
        code.append(f"the model's own from {config.model.path} (model.trust_remote_code: true)")
    return code


def code_digest(config: RunConfig) -> str:
    """The SHA-256 of the code that a run names: of the names and of the readable files."""
    digest = hashlib.sha256("\n".join(code_of(config)).encode())
    for file in _files(config):
        try:
            content = read_file(file)
        except (OSError, RunError):
            # Loading the code raises the error.
            content = b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _files(config: RunConfig) -> list[Path]:
    """The task's file, and the modules in the folder of a local model."""
    place = Path(config.task.rpartition(":")[0])
    task = [place] if place.suffix == ".py" else []
    model = Path(config.model.path)
    own = sorted(model.glob("*.py")) if config.model.trust_remote_code and model.is_dir() else []
    return [*task, *own]

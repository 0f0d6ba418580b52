"""What code a run brings: its task's, and its model's own. Loading the run executes it."""

import hashlib
from pathlib import Path

from engine.runs.config import CAUSAL_LM, IMAGE_CLASSIFICATION, RunConfig
from engine.runs.errors import RunError
from engine.runs.safe_open import read_file


def code_of(config: RunConfig) -> list[str]:
    """What is executed besides magic and its libraries, a line each."""
    found = []
    if config.task not in (CAUSAL_LM, IMAGE_CLASSIFICATION):
        place, _, name = config.task.rpartition(":")
        file = Path(place)
        if file.suffix == ".py":
            found.append(f"{file.name}:{name} from {file.parent}")
        else:
            found.append(f"{name} of the module {place}")
    if config.model.trust_remote_code:
        found.append(f"the model's own from {config.model.path} (model.trust_remote_code: true)")
    return found


def code_digest(config: RunConfig) -> str:
    """The SHA-256 of the code that a run names: of its names, and of the files that can be read."""
    digest = hashlib.sha256("\n".join(code_of(config)).encode())
    for file in _files(config):
        try:
            content = read_file(file)
        except (OSError, RunError):
            # Loading it will fail, and say why.
            content = b""
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _files(config: RunConfig) -> list[Path]:
    """The task's file, and the modules beside a model that lies on this machine."""
    place = Path(config.task.rpartition(":")[0])
    task = [place] if place.suffix == ".py" else []
    model = Path(config.model.path)
    own = sorted(model.glob("*.py")) if config.model.trust_remote_code and model.is_dir() else []
    return [*task, *own]

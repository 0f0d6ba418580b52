"""What this machine has, from the system and, for torch, from another process."""

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from engine.runs.atomic import size_on_disk

LIBRARIES = ("transformers", "datasets", "torchopt", "zarr")
_OLDEST = {"torch": (2, 11), "transformers": (5, 5), "torchopt": (0, 7), "zarr": (3, 1)}
_TORCH_SECONDS = 120
_LITTLE_DISK, _LITTLE_MEMORY = 10e9, 4e9
_ASK_TORCH = """
import json, torch
devices = []
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        devices.append({"name": p.name, "memory": p.total_memory})
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda,
                  "hip": torch.version.hip, "devices": devices}))
"""


@dataclass
class Machine:
    """Facts about this machine; None where unknown."""

    python: str
    platform: str
    cores: int
    memory: int
    free_memory: int
    runs_dir: str
    free_disk: int | None
    hub_cache: str
    hub_cache_bytes: int
    libraries: dict[str, str | None]
    torch: dict[str, Any] | None
    """``version``, ``cuda``, ``hip`` (None in a CPU build), ``devices`` (name, memory)."""
    problems: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """The same as JSON-ready values."""
        return asdict(self)


def examine(runs: Path) -> Machine:
    """Collect the facts about this machine and its problems, each with a remedy."""
    memory = psutil.virtual_memory()
    cache = _hub_cache()
    machine = Machine(
        platform.python_version(),
        f"{platform.system()} {platform.release()} {platform.machine()}",
        len(os.sched_getaffinity(0)),
        memory.total,
        memory.available,
        str(runs),
        _free_disk(runs),
        str(cache),
        size_on_disk(cache),
        {name: _version(name) for name in LIBRARIES},
        None,
    )
    machine.torch, problem = _ask_torch()
    machine.problems = [*([problem] if problem else []), *_problems(machine, runs)]
    return machine


def _ask_torch() -> tuple[dict[str, Any] | None, str | None]:
    """Version and devices of torch, or the problem that prevents reading them."""
    if _version("torch") is None:
        return None, "torch is not installed: no run can start; install it with pip"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _ASK_TORCH],
            capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False,
        )  # fmt: skip
        return dict(json.loads(done.stdout.strip().splitlines()[-1])), None
    except subprocess.TimeoutExpired:
        return None, f"torch did not load within {_TORCH_SECONDS} s; is the disk or a GPU hanging?"
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return None, f"torch is installed but does not load: {last}"


def _problems(machine: Machine, runs: Path) -> list[str]:
    problems = [
        f"{name} is not installed: install it with pip"
        for name, installed in machine.libraries.items()
        if installed is None
    ]
    versions = {**machine.libraries, "torch": (machine.torch or {}).get("version")}
    for name, (major, minor) in _OLDEST.items():
        installed = versions.get(name)
        if installed is not None and _parsed(installed) < (major, minor):
            problems.append(f"{name} {installed} is too old: {major}.{minor} or newer is needed")
    if machine.free_disk is not None and machine.free_disk < _LITTLE_DISK:
        problems.append("little disk is free in the runs folder: a trajectory can be large")
    if machine.free_memory < _LITTLE_MEMORY:
        problems.append("little memory is free: a replay holds several copies of the model")
    if not os.access(_existing(runs), os.W_OK):
        problems.append(f"{runs} cannot be written to: name another with --runs-dir")
    return problems


def _parsed(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hub_cache() -> Path:
    """Where Hugging Face libraries keep what they download."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(home).expanduser() / "hub"


def _free_disk(path: Path) -> int | None:
    try:
        return shutil.disk_usage(_existing(path)).free
    except OSError:
        return None


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path

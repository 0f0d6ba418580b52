"""Environment variables: those that users set, and those that a run depends on.

Any engine can resume a run, started from any shell. Variables that change what libraries compute
are therefore stored with the run and never taken from the engine.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True)
class Variable:
    """An environment variable that users set: the default and the meaning are documentation."""

    name: str
    default: str
    meaning: str
    read_by: str


VARIABLES = (
    Variable(
        "MAGIC_RUNS",
        "$XDG_DATA_HOME/magic/runs, else ~/.local/share/magic/runs",
        "Folder of the runs; --runs-dir overrides it.",
        "every verb",
    ),
    Variable(
        "MAGIC_STATE_DIR",
        "$XDG_STATE_HOME/magic/HOSTNAME, else ~/.local/state/magic/HOSTNAME",
        "The engine's lock, registry, log, and the path of its socket.",
        "the engine and every verb",
    ),
    Variable(
        "MAGIC_RUNTIME_DIR",
        "$XDG_RUNTIME_DIR/magic, else /tmp/magic-UID",
        "Folder of the engine's socket.",
        "the engine and every verb",
    ),
    Variable(
        "MAGIC_DISK_FLOOR_GB",
        "1.0",
        "No run starts while less than this is free on its disk, in GB.",
        "the engine, when it starts",
    ),
    Variable(
        "MAGIC_CPU_RUNS",
        "1",
        "Number of runs that work at the same time without a GPU.",
        "the engine, when it starts",
    ),
    Variable(
        "MAGIC_SAVE_SECONDS",
        "60",
        "Seconds of work that an interruption may cost; 0 saves after every step. Stored with the "
        "run.",
        "a run",
    ),
    Variable(
        "MAGIC_COLLECTIVE_SECONDS",
        "1800",
        "Seconds that a rank waits for the other ranks.",
        "a run on several ranks",
    ),
)
"""Every variable of magic that users set."""

PARENT_PIPE = "MAGIC_SUPERVISOR_PIPE"
"""Names the descriptor of a pipe that the parent of a worker holds open; the worker ends when it
closes."""
ROOT = Path(__file__).resolve().parents[2]
_INSTALLED = ("site-packages", "dist-packages")
_KEPT = (
    *("HF_", "TRANSFORMERS_", "PYTORCH_", "TORCH_", "ATEN_", "MAGIC_SAVE_SECONDS"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_"),
)
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL")
_LOADS = ("PLUGIN", "INJECTION", "TOOL_LIBRARIES", "EXTENSIONS_DIR", "PRELOAD", "LIBRARY_PATH")
"""Parts of names of variables that make a library load code."""
_LOGIN = re.compile(r"://[^/@\s]+@")
_LAUNCHED = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("NCCL_COMM_ID", "MAGIC_RENDEZVOUS"),
)
_LAUNCHERS = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "OMPI_", "PMI_", "PMIX_", "SLURM_")
_NO_LAUNCHER = "SLURM_CONF"
"""The path of Slurm's configuration, which is the same for every job."""


def magic_version() -> str:
    """The installed version of magic, or that of its checkout."""
    try:
        return version("magic-attribution")
    except PackageNotFoundError:
        pass
    import tomllib

    try:
        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        return str(tomllib.loads(text)["project"]["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def keep_files_private() -> None:
    """Make new files of this process and its children readable by their owner only.

    The modes of existing files do not change: a folder of runs may be shared on purpose.
    """
    os.umask(0o077)


def is_of_a_launcher(name: str) -> bool:
    """Whether the variable ``name`` describes one job of torchrun, accelerate, MPI or Slurm.

    A shell inside such a job passes them on. Libraries would treat this process as one of its
    ranks: it would wait for the others, or load only a part of the model.
    """
    return name in _LAUNCHED or (name.startswith(_LAUNCHERS) and name != _NO_LAUNCHER)


def is_of_the_run(name: str, value: str = "") -> bool:
    """Whether a run depends on a variable, except secrets and names of code to load."""
    never = any(word in name.upper() for word in (*_SECRET, *_LOADS)) or _LOGIN.search(value)
    return name.startswith(_KEPT) and not never and not is_of_a_launcher(name)


def environment_of_a_run(everything: Mapping[str, str]) -> dict[str, str]:
    """The variables that are stored with a run."""
    return {name: value for name, value in everything.items() if is_of_the_run(name, value)}


def environment_for_a_run(engine: Mapping[str, str], stored: Mapping[str, str]) -> dict[str, str]:
    """The engine's environment, in which the variables a run depends on are the stored ones.

    Stored variables are filtered again, because the run may come from elsewhere.
    """
    rest = {name: value for name, value in engine.items() if not is_of_the_run(name, value)}
    return {**rest, **environment_of_a_run(stored)}


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process, without the variables of launchers.

    ``PYTHONPATH`` contains a checkout that is not installed.
    """
    variables = {n: value for n, value in environment.items() if not is_of_a_launcher(n)}
    if ROOT.name not in _INSTALLED:
        known = variables.get("PYTHONPATH")
        if str(ROOT) not in (known or "").split(os.pathsep):
            variables["PYTHONPATH"] = f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)
    return variables

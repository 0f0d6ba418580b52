"""What our processes inherit, and which variables a run depends on: those are stored with it.

A run is taken up again by whatever engine is there, started from whatever shell: variables that
change what libraries compute must come from the run and never from the engine.
"""

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_INSTALLED = ("site-packages", "dist-packages")
_KEPT = (
    *("HF_", "TRANSFORMERS_", "PYTORCH_", "TORCH_", "ATEN_", "MAGIC_SAVE_SECONDS"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "LD_LIBRARY_PATH"),
    *("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_"),
)
_SECRET = ("TOKEN", "KEY", "SECRET")


def is_of_the_run(name: str) -> bool:
    """Whether a run depends on the variable ``name``; secrets are never stored, so they don't."""
    return name.startswith(_KEPT) and not any(word in name.upper() for word in _SECRET)


def environment_of_a_run(everything: Mapping[str, str]) -> dict[str, str]:
    """The variables that are stored with a run."""
    return {name: value for name, value in everything.items() if is_of_the_run(name)}


def environment_for_a_run(engine: Mapping[str, str], stored: Mapping[str, str]) -> dict[str, str]:
    """The engine's environment, with exactly the run's own variables of those it depends on."""
    kept = {name: value for name, value in engine.items() if not is_of_the_run(name)}
    return {**kept, **stored}


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python finds magic, also from a checkout that is not installed."""
    found = dict(environment)
    if ROOT.name not in _INSTALLED:
        known = found.get("PYTHONPATH")
        if str(ROOT) not in (known or "").split(os.pathsep):
            found["PYTHONPATH"] = f"{ROOT}{os.pathsep}{known}" if known else str(ROOT)
    return found

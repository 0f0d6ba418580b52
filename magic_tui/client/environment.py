"""What of the user's environment goes along: to a run that is asked for, to processes of ours."""

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from engine.contract import errors

# -P: a file in the user's folder named like a library must not be imported in its place.
PYTHON = (sys.executable, "-P", "-m")
_KEPT = (
    *("HF_", "TRANSFORMERS_", "OMP_", "MKL_", "PYTORCH_", "TORCH_"),
    *("CUDA_VISIBLE_DEVICES", "MAGIC_SAVE_SECONDS"),
)
_SECRET = ("TOKEN", "KEY", "SECRET")


def environment_of_a_run(everything: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that a run depends on, by their beginnings; they are stored, so no secrets."""
    known = os.environ if everything is None else everything
    return {
        name: value
        for name, value in known.items()
        if name.startswith(_KEPT) and not any(word in name.upper() for word in _SECRET)
    }


def environment_of_a_process() -> dict[str, str]:
    """The same environment; where magic is not installed its folder is found by path."""
    root = str(Path(errors.__file__).resolve().parents[2])
    environment = dict(os.environ)
    installed = {str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib")}
    if root not in installed:
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else root
    return environment

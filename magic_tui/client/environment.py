"""What of the user's environment goes along with a run that is asked for."""

import os
from collections.abc import Mapping

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

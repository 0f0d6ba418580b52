"""The device a worker computes on, set up so that the same config gives the same bits."""

import os

import torch

from engine.distributed.local_ranks import local_rank
from engine.runs.errors import RunError
from engine.runs.run_folder import RunFolder


def set_up_device() -> torch.device:
    """This rank's device: a GPU if there is one, otherwise the CPU.

    TF32 and nondeterministic kernels are off.
    """
    # Read by cuBLAS when it starts, which is later than this.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # As torch.use_deterministic_algorithms, which takes seconds to load torch's compiler.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def arithmetic(device: torch.device) -> dict[str, str | int]:
    """What of this machine and its libraries decides how sums are rounded."""
    on_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "processor": torch.cuda.get_device_name(device)
        if on_gpu
        else torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def compute_as_before(folder: RunFolder, device: torch.device) -> str | None:
    """Compute as when a run was prepared; returns a warning if rounding may differ all the same.

    Raises:
        RunError: if it was prepared on another kind of device.
    """
    facts = folder.prepared()
    # The number of threads decides in which order sums are taken.
    torch.set_num_threads(facts["threads"])
    now = arithmetic(device)
    if now["device"] != facts["device"]:
        raise RunError(
            f"run {folder.id} began on {facts['device']}, but this machine has only "
            f"{now['device']}, which rounds differently; resume it on {facts['device']}"
        )
    changed = [f"{facts[n]} then, {now[n]} now" for n in now if now[n] != facts[n]]
    if not changed:
        return None
    return (
        f"this machine computes otherwise than when the run began ({'; '.join(changed)}): scores "
        "may differ in rounding"
    )

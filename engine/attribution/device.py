"""The device of a worker: deterministic arithmetic, and memory measurement."""

import os

import torch

from engine.distributed.local_ranks import local_rank
from engine.runs.errors import RunError
from engine.runs.run_folder import RunFolder


def set_up_device() -> torch.device:
    """This rank's device: a GPU if there is one, otherwise the CPU.

    TF32 and nondeterministic kernels are off.
    """
    # cuBLAS reads it when it starts, after this call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # torch.use_deterministic_algorithms does the same, but loads torch's compiler for seconds.
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank() % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def arithmetic(device: torch.device) -> dict[str, str | int]:
    """The properties of this machine and its libraries that determine rounding."""
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
    """Use the thread count of a run's preparation; returns a warning if rounding may differ.

    Raises:
        RunError: if it was prepared on another kind of device.
    """
    facts = folder.prepared()
    # The number of threads determines the order of sums.
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
        f"this machine rounds differently from the one that began the run ({'; '.join(changed)}): "
        "scores may differ in rounding"
    )

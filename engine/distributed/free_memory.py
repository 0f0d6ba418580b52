"""Memory that is free to compute in."""

import psutil
import torch


def free_memory(device: torch.device) -> int:
    """Bytes free on a device, or in this machine's memory."""
    if device.type == "cuda":
        # The driver counts what torch keeps to give out again as taken.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return int(psutil.virtual_memory().available)

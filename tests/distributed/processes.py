"""Several ranks as processes of this machine, speaking through gloo."""

import multiprocessing
import queue
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 300
Work = Callable[..., Any]
"""A function of a module that other processes can import."""


def on_ranks(count: int, folder: Path, work: Work, *arguments: Any) -> list[Any]:
    """What ``work`` returns on each of ``count`` ranks; plain values, for they are pickled."""
    # Forked from a process that has loaded the libraries once, before any thread was started.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "transformers", work.__module__])
    results: Any = context.Queue()
    meeting = folder / f"meeting-{len(list(folder.glob('meeting-*')))}"
    processes = [
        context.Process(target=_rank, args=(rank, count, meeting, results, work, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(_next(results, processes) for _ in range(count))
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return [found[rank] for rank in range(count)]


def _next(results: Any, processes: list[Any]) -> tuple[int, Any]:
    for _ in range(SECONDS):
        try:
            rank, value, error = results.get(timeout=1)
        except queue.Empty:
            dead = [process for process in processes if process.exitcode]
            assert not dead, "a rank died without a word"
            continue
        assert error is None, error
        return rank, value
    raise TimeoutError("the ranks wait for each other")


def _rank(
    rank: int, count: int, meeting: Path, results: Any, work: Work, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    value, error = None, None
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=count
        )
        value = work(*arguments)
        dist.barrier()
        dist.destroy_process_group()
    except Exception:
        error = traceback.format_exc()
    results.put((rank, value, error))
    results.close()
    results.join_thread()

"""A pool of ranks: processes of this machine that communicate through gloo.

The processes start once per test session, which takes seconds, and run one function after the
other, each in a process group of its own.
"""

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

SECONDS = 300
PRELOADED = ["torch.distributed", "transformers", "peft", "engine.training.trainer"]
Work = Callable[..., Any]
"""A function of a module that other processes can import."""


class RankPool:
    """Processes that wait for work. After an error they are replaced."""

    def __init__(self) -> None:
        # Forked from a process that has imported the libraries once, before any thread started.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._processes: list[Any] = []
        self._pipes: list[Any] = []

    def run(self, count: int, work: Work, *arguments: Any) -> list[Any]:
        """What ``work`` returns on each of ``count`` ranks. Values are pickled.

        Raises:
            AssertionError: with the traceback of a rank that failed.
            TimeoutError: if a rank does not return within :data:`SECONDS`.
        """
        while len(self._processes) < count:
            self._start()
        with tempfile.TemporaryDirectory() as folder:
            for rank, pipe in enumerate(self._pipes[:count]):
                pipe.send((rank, count, Path(folder, "rendezvous"), work, arguments))
            try:
                return self._results(count)
            except BaseException:
                # Other ranks may be blocked in a collective operation.
                self.close()
                raise

    def close(self) -> None:
        """Kill the processes."""
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.kill()
            process.join()
            pipe.close()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        pipe, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._processes.append(process)
        self._pipes.append(pipe)

    def _results(self, count: int) -> list[Any]:
        results: dict[int, Any] = {}
        pending = self._pipes[:count]
        while pending:
            ready = wait(pending, SECONDS)
            if not ready:
                raise TimeoutError(f"ranks without a result: {set(range(count)) - set(results)}")
            for pipe in ready:
                rank = self._pipes.index(pipe)
                try:
                    results[rank], error = pipe.recv()
                except EOFError:
                    raise AssertionError(f"rank {rank} exited without a result") from None
                assert error is None, error
                pending.remove(pipe)
        return [results[rank] for rank in range(count)]


def _serve(pipe: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            rank, count, rendezvous, work, arguments = pipe.recv()
        except EOFError:
            return
        value, error = None, None
        try:
            dist.init_process_group(
                "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=count
            )
            value = work(*arguments)
            dist.barrier()
            dist.destroy_process_group()
        except Exception:
            error = traceback.format_exc()
        pipe.send((value, error))


POOL = RankPool()


def on_ranks(count: int, work: Work, *arguments: Any) -> list[Any]:
    """What ``work`` returns on each of ``count`` ranks of the session's pool."""
    return POOL.run(count, work, *arguments)

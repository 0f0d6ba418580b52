"""Retrainings in several local processes, each with its own model; the bits are those of one.

``--jobs`` uses these processes, and ``--cluster local`` the jobs of submitit. They are not merged:
submitit is an optional dependency, needs two processes and a polled folder for each job, and its
local jobs do not notice that the parent was killed.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from engine.attribution.device import set_up_device
from engine.attribution.prepare import restore_run
from engine.attribution.reporting import errors_with_remedy
from engine.evaluation.retraining import Retrained, Retrainer, Task
from engine.runs.errors import MagicError, RunError, unexpected
from engine.runs.run_folder import RunFolder


def retrain_in_processes(
    folder: RunFolder, tasks: Sequence[Task], count: int, keep_models: bool
) -> Generator[Retrained, None, None]:
    """Do tasks in ``count`` processes, and yield each result as it arrives.

    Raises:
        MagicError: the error of a process.
        RunError: if a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    waiting = iter(tasks)
    processes: dict[Connection, SpawnProcess] = {}
    try:
        for task in itertools.islice(waiting, count):
            ours, theirs = context.Pipe()
            arguments = (theirs, folder.path, torch.get_num_threads(), keep_models)
            process = context.Process(target=_serve, args=arguments)
            process.start()
            # The process holds the only copy of its end, which closes when it is killed.
            theirs.close()
            processes[ours] = process
            ours.send(task)
        while processes:
            for connection in wait(list(processes)):
                assert isinstance(connection, Connection)
                yield _receive(connection)
                following = next(waiting, None)
                if following is None:
                    connection.close()
                    processes.pop(connection).join()
                else:
                    connection.send(following)
    finally:
        for process in processes.values():
            process.kill()
            process.join()


def _receive(connection: Connection) -> Retrained:
    try:
        answer = connection.recv()
    except EOFError:
        raise RunError(
            "a retraining process was killed, perhaps for lack of memory; give fewer --jobs"
        ) from None
    if isinstance(answer, MagicError):
        raise answer
    assert isinstance(answer, Retrained)
    return answer


def _serve(connection: Connection, run: Path, threads: int, keep_models: bool) -> None:
    """The main function of a process: do tasks until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    folder = RunFolder(run)
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            with errors_with_remedy():
                retrainer = Retrainer(folder, restore_run(folder, set_up_device()), keep_models)
                while True:
                    connection.send(retrainer(connection.recv()))
        except MagicError as error:
            connection.send(error)
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:
            traceback.print_exc()
            connection.send(RunError(unexpected(error)))
    # Python's own shutdown may hang after torch, and the parent waits for this process.
    os._exit(0)


def _exit_with_parent() -> None:
    """Exit when the parent dies: nothing would read the results."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""Retrainings in several processes, each with a model of its own; the bits are those of one."""

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


def side_by_side(
    folder: RunFolder, tasks: Sequence[Task], processes: int, keep: bool
) -> Generator[Retrained, None, None]:
    """Do tasks in several processes; each as it is done.

    Raises:
        MagicError: what went wrong in one of them.
        RunError: if one of them was killed.
    """
    context = multiprocessing.get_context("spawn")
    waiting = iter(tasks)
    busy: dict[Connection, SpawnProcess] = {}
    try:
        for task in itertools.islice(waiting, processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, folder.path, torch.get_num_threads(), keep)
            )
            process.start()
            # Only the process itself holds its end now, which closes when it is killed.
            theirs.close()
            busy[ours] = process
            ours.send(task)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                yield _answer(connection)
                following = next(waiting, None)
                if following is None:
                    connection.close()
                    busy.pop(connection).join()
                else:
                    connection.send(following)
    finally:
        for process in busy.values():
            process.kill()
            process.join()


def _answer(connection: Connection) -> Retrained:
    try:
        answer = connection.recv()
    except EOFError:
        raise RunError(
            "a retraining process was killed, perhaps for want of memory; give fewer --jobs"
        ) from None
    if isinstance(answer, MagicError):
        raise answer
    assert isinstance(answer, Retrained)
    return answer


def _serve(connection: Connection, run: Path, threads: int, keep: bool) -> None:
    """One process: does what it is sent until nobody sends any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    folder = RunFolder(run)
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            with errors_with_remedy():
                retrainer = Retrainer(folder, restore_run(folder, set_up_device()), keep)
                while True:
                    connection.send(retrainer(connection.recv()))
        except MagicError as error:
            connection.send(error)
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:
            traceback.print_exc()
            connection.send(RunError(unexpected(error)))
    # As at the end of a worker: Python's own way out may hang, and the parent waits for this one.
    os._exit(0)


def _die_with_parent() -> None:
    """Nobody would hear of what is done after its end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""What a worker's work ends in: an event for every outcome, and errors that name the remedy."""

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.attribution.reporter import Reporter
from engine.replay.replay import DivergedError, NotReproducedError
from engine.runs.errors import (
    DiskFullError,
    ExitCode,
    LostRankError,
    MagicError,
    RepeatingError,
    RunError,
    StoppedError,
    unexpected,
)
from engine.runs.events import Event
from engine.runs.out_of_memory import OUT_OF_MEMORY, is_out_of_memory

_ADVICE = {
    "loss": "lower training.optimizer.learning_rate, or raise batch_size",
    "gradient": "lower training.optimizer.learning_rate, or set training.max_grad_norm",
    "cotangent": "raise training.optimizer.eps_root, lower learning_rate, or raise batch_size",
    "trained model": "lower training.optimizer.learning_rate, or raise batch_size",
    "query's loss": "lower training.optimizer.learning_rate: the trained model is broken",
}
_LOST_RANK = (
    "another rank ended or did not answer in time; its log says why (a collective's time-out is "
    "MAGIC_COLLECTIVE_SECONDS)"
)


@contextmanager
def reported(report: Reporter, work: str) -> Iterator[None]:
    """Record how the work inside ends; turn what went wrong into a :class:`MagicError`."""
    try:
        with explained():
            yield
    except LostRankError:
        _tell(report, Event.INTERRUPTED, saved=False)
        raise
    except MagicError as error:
        _tell(report, Event.FAILED, message=str(error), exit_code=int(error.exit_code))
        raise
    except KeyboardInterrupt as error:
        _tell(report, Event.INTERRUPTED, saved=isinstance(error, StoppedError))
        raise
    except BaseException as error:
        message = unexpected(error)
        _tell(report, Event.FAILED, message=message, exit_code=int(ExitCode.RUN_FAILED))
        raise
    else:
        report(Event.FINISHED, work=work)
    finally:
        with contextlib.suppress(OSError):
            report.close()


def _tell(report: Reporter, event: Event, **facts: Any) -> None:
    # What went wrong may be the disk itself; the error must not be lost over its record.
    with contextlib.suppress(OSError):
        report(event, **facts)


@contextmanager
def explained() -> Iterator[None]:
    """Give known failures of computing their sentence and remedy."""
    try:
        yield
    except DivergedError as error:
        raise RepeatingError(f"{error}; {_ADVICE[error.what]}") from error
    except NotReproducedError as error:
        remedy = "restore the model that model.path named at the time"
        raise RepeatingError(f"{error}; {remedy}") from error
    except torch.OutOfMemoryError as error:
        raise RunError(
            "out of device memory; set training.micro_batch_size or "
            "attribution.memory_budget_gb lower, or training.activation_checkpointing to true"
        ) from error
    except torch.distributed.DistError as error:
        raise LostRankError(_LOST_RANK) from error
    except (MagicError, MemoryError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(OUT_OF_MEMORY) from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise RunError(OUT_OF_MEMORY) from error
        if not _is_from_a_lost_rank(error):
            raise
        raise LostRankError(_LOST_RANK) from error
    except OSError as error:
        if is_out_of_memory(error):
            raise RunError(OUT_OF_MEMORY) from error
        if error.filename is None and error.errno is None:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "the run's folder"
            raise DiskFullError(f"{where}: {error.strerror}; free some disk") from error
        raise RunError(
            f"{error.filename}: {error.strerror}; check that it is there and may be written"
        ) from error


def _is_from_a_lost_rank(error: RuntimeError) -> bool:
    """Gloo raises a plain RuntimeError when the rank at the other end of a connection is gone."""
    text = str(error)
    return "gloo" in text and ("closed by peer" in text or "reset by peer" in text)

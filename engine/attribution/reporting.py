"""Events of a worker in its run's journal, and errors that name a remedy."""

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from engine.attribution.prepared_run import PreparedRun
from engine.cost.process_memory import peak_memory
from engine.replay.replay import DivergedError, NotReproducedError
from engine.runs.errors import (
    OUT_OF_MEMORY,
    DiskFullError,
    ExitCode,
    LostRankError,
    MagicError,
    RepeatingError,
    RunError,
    StoppedError,
    is_out_of_memory,
    unexpected,
)
from engine.runs.events import Event, Phase, check
from engine.runs.journal import JournalWriter

_REMEDIES = {
    "loss": "lower training.optimizer.learning_rate, or raise batch_size",
    "gradient": "lower training.optimizer.learning_rate, or set training.max_grad_norm",
    "cotangent": "raise training.optimizer.eps_root, lower learning_rate, or raise batch_size",
    "trained model": "lower training.optimizer.learning_rate, or raise batch_size",
    "query's loss": "lower training.optimizer.learning_rate: the trained model is broken",
}
_LOST_RANK = (
    "another rank ended or did not answer in time; see its log (a collective's time-out is "
    "MAGIC_COLLECTIVE_SECONDS)"
)


class Reporter:
    """The observer of training and replay: writes each fact as an event.

    It adds the learning rate and the memory to the events of steps.
    """

    def __init__(self, journal: JournalWriter | None) -> None:
        """Write to ``journal``; None on every rank but the first."""
        self.journal = journal
        self.prepared: PreparedRun | None = None
        """The prepared run; before it is set, no learning rate and no memory is added."""
        self.reproduced: bool | None = None
        """Whether the last training step was reproduced bit for bit; None if not known yet."""

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Write one event.

        Raises:
            TypeError: if its fields are not those of its class in :mod:`engine.runs.events`.
        """
        if self.prepared is not None and event in (Event.TRAIN_STEP, Event.REPLAY_STEP):
            facts["memory"] = peak_memory(self.prepared.device)
            if event == Event.TRAIN_STEP:
                facts["learning_rate"] = self.prepared.learning_rate(facts["step"])
        check(event, facts)
        if event == Event.REPRODUCED:
            self.reproduced = bool(facts["exact"])
        if self.journal is not None:
            self.journal.append(str(event), **facts)

    def phase(self, phase: Phase, total: int, attribution: str | None = None) -> None:
        """Write that a phase of ``total`` steps begins, and sync the journal to disk."""
        self(Event.PHASE, phase=str(phase), total=total, attribution=attribution)
        if self.journal is not None:
            self.journal.sync()

    def close(self) -> None:
        """Close the journal."""
        if self.journal is not None:
            self.journal.close()


@contextmanager
def report_outcome(report: Reporter, work: str) -> Iterator[None]:
    """Write how the work inside ends, and raise its failure as a :class:`MagicError`."""
    try:
        with errors_with_remedy():
            yield
    except LostRankError:
        _write(report, Event.INTERRUPTED, saved=False)
        raise
    except MagicError as error:
        _write(report, Event.FAILED, message=str(error), exit_code=int(error.exit_code))
        raise
    except KeyboardInterrupt as error:
        _write(report, Event.INTERRUPTED, saved=isinstance(error, StoppedError))
        raise
    except BaseException as error:
        message = unexpected(error)
        _write(report, Event.FAILED, message=message, exit_code=int(ExitCode.RUN_FAILED))
        raise
    else:
        report(Event.FINISHED, work=work)
    finally:
        with contextlib.suppress(OSError):
            report.close()


def _write(report: Reporter, event: Event, **facts: Any) -> None:
    # The disk may be the cause of the failure: keep the original error.
    with contextlib.suppress(OSError):
        report(event, **facts)


@contextmanager
def errors_with_remedy() -> Iterator[None]:
    """Raise known failures of the work inside as a :class:`MagicError` that names a remedy."""
    try:
        yield
    except DivergedError as error:
        raise RepeatingError(f"{error}; {_REMEDIES[error.what]}") from error
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
            f"{error.filename}: {error.strerror}; check that it exists and may be written"
        ) from error


def _is_from_a_lost_rank(error: RuntimeError) -> bool:
    """Whether another rank has exited: gloo then raises a plain RuntimeError."""
    text = str(error)
    return "gloo" in text and ("closed by peer" in text or "reset by peer" in text)

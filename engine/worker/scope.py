"""What a worker's work ends in: an event for every outcome, and errors that name the remedy."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.contract.errors import ExitCode, MagicError, RunError
from engine.contract.events import Event
from engine.magic.replay import DivergedError, NotReproducedError
from engine.worker.reporter import Reporter

_ADVICE = {
    "loss": "lower training.optimizer.learning_rate, or raise batch_size",
    "gradient": "lower training.optimizer.learning_rate, or set training.max_grad_norm",
    "cotangent": "raise training.optimizer.eps_root, lower learning_rate, or raise batch_size",
    "trained model": "lower training.optimizer.learning_rate, or raise batch_size",
    "query's loss": "lower training.optimizer.learning_rate: the trained model is broken",
}


@contextmanager
def reported(report: Reporter, work: str) -> Iterator[None]:
    """Record how the work inside ends; turn what went wrong into a :class:`MagicError`."""
    try:
        with explained():
            yield
    except MagicError as error:
        report(Event.FAILED, message=str(error), exit_code=int(error.exit_code))
        raise
    except KeyboardInterrupt:
        report(Event.INTERRUPTED)
        raise
    except BaseException as error:
        message = f"unexpected {type(error).__name__}: {error}"
        report(Event.FAILED, message=message, exit_code=int(ExitCode.RUN_FAILED))
        raise
    else:
        report(Event.FINISHED, work=work)
    finally:
        report.journal.close()


@contextmanager
def explained() -> Iterator[None]:
    """Give known failures of computing their sentence and remedy."""
    try:
        yield
    except DivergedError as error:
        raise RunError(f"{error}; {_ADVICE[error.what]}") from error
    except NotReproducedError as error:
        raise RunError(f"{error}; restore the model that model.path named at the time") from error
    except torch.OutOfMemoryError as error:
        raise RunError(
            "out of device memory; set training.micro_batch_size or "
            "attribution.memory_budget_gb lower"
        ) from error
    except MemoryError as error:
        raise RunError(
            "out of memory; set training.micro_batch_size or attribution.memory_budget_gb lower"
        ) from error
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some disk" if full else "check that it is there and may be written"
        raise RunError(f"{error.filename}: {error.strerror}; {advice}") from error

"""The errors that users see, each with its exit code."""

import errno
from enum import IntEnum

OUT_OF_MEMORY = (
    "out of memory; set training.micro_batch_size or attribution.memory_budget_gb lower, or "
    "training.activation_checkpointing to true, or give the process more memory (ulimit -v)"
)
_SIGNS = (
    *("can't allocate memory", "cannot allocate memory", "unable to allocate", "bad_alloc"),
    *("memory allocation still failed", "failed to map segment from shared object"),
    *("can't start new thread", "thread creation failed", "pthread_create failed"),
)
_LONGEST_CHAIN = 20


class ExitCode(IntEnum):
    """Exit codes of every ``magic`` verb."""

    OK = 0
    """The work is done."""
    RUN_FAILED = 1
    """The run or one of its jobs failed. The message names the cause and the remedy."""
    USAGE = 2
    """The command, the config or the data is wrong. Nothing was started."""
    UNREACHABLE = 3
    """No engine answers, or its socket may not be opened."""
    TIMEOUT_OR_CANCELLED = 4
    """The run is paused or cancelled, or did not finish within ``--timeout``."""
    UNTRUSTED = 5
    """``magic validate --threshold``: an LDS is below the threshold."""
    INTERRUPTED = 130
    """Ctrl+c. The run continues in the background."""


class MagicError(Exception):
    """A failure in one sentence: what is wrong, where, and what to do about it."""

    exit_code = ExitCode.RUN_FAILED


class UsageError(MagicError):
    """The request itself is wrong: a config, an argument, a file or the data it names."""

    exit_code = ExitCode.USAGE


class DerivativeError(UsageError):
    """A model whose scores would not be the derivatives of its training."""


class RunError(MagicError):
    """Work failed after it had begun."""


class LostRankError(RunError):
    """Another rank ended; all ranks can resume from the last save."""


class RepeatingError(RunError):
    """A failure that another attempt would repeat unless a setting changes."""


class DiskFullError(RunError):
    """A disk is full; the work can continue once there is space."""


class StoppedError(KeyboardInterrupt):
    """The work was stopped on request, after saving its progress.

    A KeyboardInterrupt, so that no ``except Exception`` catches it.
    """


class NotFoundError(UsageError):
    """The named object does not exist."""


class ConflictError(UsageError):
    """The request is not possible in the present state."""


class UnreachableError(MagicError):
    """No engine answers, or its socket may not be opened."""

    exit_code = ExitCode.UNREACHABLE


def unexpected(error: BaseException) -> str:
    """The sentence for an error of any other type."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    return f"unexpected {type(error).__name__}: {error}"


def says_out_of_memory(text: str) -> bool:
    """Whether a library's message reports a failed allocation."""
    return any(sign in text.lower() for sign in _SIGNS)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error or one of its causes is a failed allocation."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return False
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, MemoryError) or number == errno.ENOMEM:
            return True
        # A wrapping error still contains the message.
        if says_out_of_memory(str(error)):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False

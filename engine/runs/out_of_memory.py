"""Memory that is short, in whatever words libraries say so."""

import errno

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


def says_out_of_memory(text: str) -> bool:
    """Whether what a library printed means that there was no memory."""
    return any(sign in text.lower() for sign in _SIGNS)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, means that there was no memory."""
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return False
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, MemoryError) or number == errno.ENOMEM:
            return True
        # Wrapped by another library, or by a sentence of ours, the words are still there.
        if says_out_of_memory(str(error)):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False

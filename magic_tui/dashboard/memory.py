"""Memory that was freed is given back to the system, not kept for later."""

import contextlib
import ctypes

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
"""Numbers of malloc.h."""
_ARENAS = 2
_LARGE_BYTES, _SPARE_BYTES = 2**20, 2**24


def give_back_what_is_freed() -> None:
    """Tell the C library to; best before there are threads. Other libraries than glibc do anyway.

    Pages of scores and texts come and go in many threads. glibc keeps a heap a thread and learns
    to serve large blocks from them, which then stay full of holes: half as much again in the end.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_ARENA_MAX, _ARENAS)
        library.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _SPARE_BYTES)

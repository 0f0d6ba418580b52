"""Process settings and background imports at start-up."""

import contextlib
import ctypes
import gc
import importlib
from collections.abc import Callable, Iterable

LIBRARIES = (
    *("numpy.ma", "pyarrow.parquet", "pyarrow.compute", "zarr", "zarr.codecs", "tokenizers"),
)
"""Readers of documents, scores and tokens; importing them all takes more than a second."""

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
"""Parameter numbers of malloc.h."""
_ARENAS = 2
_LARGE_BYTES, _SPARE_BYTES = 2**20, 2**24


def limit_malloc() -> None:
    """Make glibc return freed memory to the system; call it before threads start.

    Pages of scores and texts are allocated in many threads. By default glibc keeps one heap per
    thread and fragments them, which costs about half as much memory again. Other C libraries are
    left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_ARENA_MAX, _ARENAS)
        library.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _SPARE_BYTES)


def preload(modules: Iterable[str], is_cancelled: Callable[[], bool]) -> None:
    """Import modules, then :data:`LIBRARIES`; runs in a thread.

    Args:
        modules: the modules of the screens; any screen may be opened at any moment.
        is_cancelled: checked before each import, so that quitting does not wait for the rest.
    """
    for module in (*modules, *LIBRARIES):
        if is_cancelled():
            return
        # A missing or broken module raises again where it is used.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    # These objects stay; scanning them in every collection would delay keys.
    gc.freeze()

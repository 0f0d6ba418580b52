"""What screens will need, loaded in the background so that the first visit to them is quick."""

import contextlib
import gc
import importlib
from collections.abc import Callable, Iterable

LIBRARIES = (
    *("numpy.ma", "pyarrow.parquet", "pyarrow.compute", "zarr", "zarr.codecs", "tokenizers"),
)
"""What reads documents, scores and tokens: a second and more to load together."""


def warm_up(modules: Iterable[str], is_unwanted: Callable[[], bool]) -> None:
    """Import modules one after the other, then the libraries; for a thread.

    Args:
        modules: our own, which come first: a screen may be opened at any moment.
        is_unwanted: asked before each, so that leaving never waits for all of them.
    """
    for module in (*modules, *LIBRARIES):
        if is_unwanted():
            return
        # Whoever needs a module that is missing or broken imports it again, and can tell of it.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    # What was loaded stays: looking through all of it again and again would stall a key.
    gc.freeze()

"""Python's garbage collection, which would look through all objects of the libraries all the time.

Loading them makes 400,000 objects; collecting meanwhile takes a sixth of that time, and each full
collection afterwards 0.4 s.
"""

import gc

_USUAL = gc.get_threshold()
_SELDOM = (100_000, 20, 100)


def collect_seldom() -> None:
    """Until all is loaded: what is made meanwhile is mostly there to stay."""
    gc.set_threshold(*_SELDOM)


def all_is_loaded() -> None:
    """Leave what is there now alone, and collect as ever: what steps make may hold much memory."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_USUAL)

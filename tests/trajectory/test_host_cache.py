"""The host cache avoids as many reads as is possible, and stays within its budget."""

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from engine.replay.state import Params
from engine.runs.manifest import Key
from engine.trajectory.files import Stamp
from engine.trajectory.host_cache import HostCache, ReadPlan

STAMP: Stamp = (("file", "00"),)
TENSORS: Params = {}
KEYS: list[Key] = [("state", step) for step in range(5)]


def misses(order: list[Key], budget: int) -> int:
    """The number of cache misses of these reads, of one byte each."""
    cache, count = HostCache(budget), 0
    cache.read_plan = ReadPlan(order)
    for key in order:
        tensors = cache.get(key, STAMP)
        cache.read_plan.advance(key)
        if tensors is None:
            count += 1
            cache.put(key, STAMP, 1, TENSORS)
        assert cache.used <= budget
    return count


def fewest(order: list[Key], budget: int) -> int:
    """The fewest possible misses, by exhaustive search."""

    @cache
    def after(place: int, held: frozenset[Key]) -> int:
        if place == len(order):
            return 0
        key = order[place]
        if key in held:
            return after(place + 1, held)
        choices = {held} if budget == 0 or len(held) == budget else {held | {key}}
        choices |= {held - {other} | {key} for other in held}
        return 1 + min(after(place + 1, choice) for choice in choices)

    return after(0, frozenset())


@given(st.lists(st.sampled_from(KEYS), max_size=12), st.integers(0, 4))
def test_no_eviction_order_has_fewer_misses(order: list[Key], budget: int) -> None:
    assert misses(order, budget) == fewest(order, budget)


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 6)), max_size=20),
    st.lists(st.sampled_from(KEYS), max_size=12),
    st.integers(0, 9),
)
def test_any_sizes_stay_within_the_budget(
    puts: list[tuple[Key, int]], order: list[Key], budget: int
) -> None:
    cache, sizes = HostCache(budget), dict[Key, int]()
    cache.read_plan = ReadPlan(order)
    for key, size in puts:
        if cache.put(key, STAMP, size, TENSORS):
            sizes[key] = size
        else:
            assert cache.lacks(key, STAMP)
        sizes = {key: size for key, size in sizes.items() if not cache.lacks(key, STAMP)}
        assert cache.used == sum(sizes.values()) <= budget


def test_other_bits_are_a_miss() -> None:
    cache = HostCache(1)
    assert cache.put(KEYS[0], STAMP, 1, TENSORS)
    other: Stamp = (("file", "01"),)
    assert cache.get(KEYS[0], STAMP) is TENSORS
    assert cache.get(KEYS[0], other) is None and cache.lacks(KEYS[0], other)

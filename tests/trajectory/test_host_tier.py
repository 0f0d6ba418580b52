"""What the host tier holds is what saves the most reads, and never more than its budget."""

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
    """How many of these reads, of one byte each, the tier could not serve."""
    tier, count = HostCache(budget), 0
    tier.foresight = ReadPlan(order)
    for key in order:
        found = tier.get(key, STAMP)
        tier.foresight.passed(key)
        if found is None:
            count += 1
            tier.put(key, STAMP, 1, TENSORS)
        assert tier.used <= budget
    return count


def fewest(order: list[Key], budget: int) -> int:
    """The fewest that anything could do, by trying everything."""

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
def test_no_choice_of_what_to_hold_saves_more_reads(order: list[Key], budget: int) -> None:
    assert misses(order, budget) == fewest(order, budget)


@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 6)), max_size=20),
    st.lists(st.sampled_from(KEYS), max_size=12),
    st.integers(0, 9),
)
def test_the_budget_holds_whatever_the_sizes(
    puts: list[tuple[Key, int]], order: list[Key], budget: int
) -> None:
    tier, sizes = HostCache(budget), dict[Key, int]()
    tier.foresight = ReadPlan(order)
    for key, size in puts:
        if tier.put(key, STAMP, size, TENSORS):
            sizes[key] = size
        else:
            assert tier.lacks(key, STAMP)
        sizes = {key: size for key, size in sizes.items() if not tier.lacks(key, STAMP)}
        assert tier.used == sum(sizes.values()) <= budget


def test_other_bits_are_not_what_is_held() -> None:
    tier = HostCache(1)
    assert tier.put(KEYS[0], STAMP, 1, TENSORS)
    other: Stamp = (("file", "01"),)
    assert tier.get(KEYS[0], STAMP) is TENSORS
    assert tier.get(KEYS[0], other) is None and tier.lacks(KEYS[0], other)

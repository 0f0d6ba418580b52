"""Where a trajectory goes on, for whatever of it is on disk."""

from hypothesis import given
from hypothesis import strategies as st

from engine.replay.checkpointing import CheckpointingKind, checkpointing_schedule
from engine.runs.manifest import Key, Manifest
from engine.trajectory.recovery import Remaining, expected, remaining

KINDS: list[CheckpointingKind] = ["all", "gradients", "sqrt", "log"]


def manifest_of(kind: CheckpointingKind, steps: int, keys: list[Key]) -> Manifest:
    manifest = Manifest(kind, steps)
    manifest.files = {key: {} for key in keys}
    return manifest


@given(st.sampled_from(KINDS), st.integers(1, 40), st.data())
def test_taking_what_remains_makes_it_whole(
    kind: CheckpointingKind, steps: int, data: st.DataObject
) -> None:
    schedule = checkpointing_schedule(kind, steps)
    whole = expected(schedule)
    there = data.draw(st.lists(st.sampled_from(whole), unique=True))
    saved = data.draw(st.lists(st.integers(1, steps - 1), max_size=1)) if steps > 1 else []
    manifest = manifest_of(kind, steps, there + [("resume", step) for step in saved])
    left = remaining(manifest, schedule)
    if left is None:
        assert set(there) == set(whole)
        return
    assert left.start == 0 or ({("state", left.start), ("resume", left.start)} & {*manifest.files})
    assert left.start <= left.end <= steps
    made = {("state", step) for step in range(left.start, left.end + 1)}
    made |= {("gradient", step) for step in range(left.start, left.end)}
    assert set(whole) <= set(there) | made
    # Nothing before the start is lacking, and the last step is needed.
    assert all(step >= left.start for kind, step in set(whole) - set(there))
    lacking_at_end = {("state", left.end), ("gradient", left.end - 1)} & (set(whole) - set(there))
    assert lacking_at_end


def test_one_damaged_state_costs_one_segment() -> None:
    schedule = checkpointing_schedule("sqrt", 16)
    keys = [key for key in expected(schedule) if key != ("state", 8)]
    assert remaining(manifest_of("sqrt", 16, keys), schedule) == Remaining(4, 8, 4)


def test_a_saved_state_shortens_the_way() -> None:
    schedule = checkpointing_schedule("log", 16)
    keys: list[Key] = [("state", 0), ("resume", 11)]
    assert remaining(manifest_of("log", 16, keys), schedule) == Remaining(11, 16, 11)


def test_kept_gradients_count_as_done() -> None:
    schedule = checkpointing_schedule("gradients", 16)
    keys: list[Key] = [("state", 0), ("state", 4), *(("gradient", step) for step in range(7))]
    assert remaining(manifest_of("gradients", 16, keys), schedule) == Remaining(4, 16, 7)

"""Where training resumes, for any files on disk."""

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
def test_the_remaining_steps_complete_the_trajectory(
    kind: CheckpointingKind, steps: int, data: st.DataObject
) -> None:
    schedule = checkpointing_schedule(kind, steps)
    whole = expected(schedule)
    present = data.draw(st.lists(st.sampled_from(whole), unique=True))
    saved = data.draw(st.lists(st.integers(1, steps - 1), max_size=1)) if steps > 1 else []
    manifest = manifest_of(kind, steps, present + [("resume", step) for step in saved])
    left = remaining(manifest, schedule)
    if left is None:
        assert set(present) == set(whole)
        return
    assert left.start == 0 or ({("state", left.start), ("resume", left.start)} & {*manifest.files})
    assert left.start <= left.end <= steps
    written = {("state", step) for step in range(left.start, left.end + 1)}
    written |= {("gradient", step) for step in range(left.start, left.end)}
    assert set(whole) <= set(present) | written
    # Nothing is missing before the start, and the last step is needed.
    assert all(step >= left.start for kind, step in set(whole) - set(present))
    lacking_at_end = {("state", left.end), ("gradient", left.end - 1)} & (set(whole) - set(present))
    assert lacking_at_end


def test_one_damaged_state_costs_one_segment() -> None:
    schedule = checkpointing_schedule("sqrt", 16)
    keys = [key for key in expected(schedule) if key != ("state", 8)]
    assert remaining(manifest_of("sqrt", 16, keys), schedule) == Remaining(4, 8, 4)


def test_a_saved_state_is_resumed_from() -> None:
    schedule = checkpointing_schedule("log", 16)
    keys: list[Key] = [("state", 0), ("resume", 11)]
    assert remaining(manifest_of("log", 16, keys), schedule) == Remaining(11, 16, 11)


def test_recorded_gradients_count_as_done() -> None:
    schedule = checkpointing_schedule("gradients", 16)
    keys: list[Key] = [("state", 0), ("state", 4), *(("gradient", step) for step in range(7))]
    assert remaining(manifest_of("gradients", 16, keys), schedule) == Remaining(4, 16, 7)

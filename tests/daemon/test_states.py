"""Every combination of facts gives a legal state."""

from hypothesis import given
from hypothesis import strategies as st

from engine.runs.states import (
    MAX_DEAD_ATTEMPTS,
    AttemptFacts,
    DesiredState,
    Ending,
    JobFacts,
    RunState,
    job_state,
)

ENDED = st.builds(
    AttemptFacts,
    held=st.just(False),
    begun=st.booleans(),
    ending=st.sampled_from(Ending),
    progressed=st.booleans(),
)
"""An attempt whose processes are gone: it has an ending, or it died."""
HELD = st.builds(
    AttemptFacts,
    held=st.just(True),
    begun=st.booleans(),
    ending=st.none() | st.sampled_from(Ending),
    progressed=st.booleans(),
)


@st.composite
def facts(draw: st.DrawFn) -> JobFacts:
    attempts = draw(st.lists(ENDED, max_size=6)) + draw(st.lists(HELD, max_size=1))
    # A request resets the attempts made so far; later ones only add to them.
    return JobFacts(
        draw(st.sampled_from(DesiredState)), draw(st.integers(0, len(attempts))), attempts
    )


@given(facts())
def test_every_combination_gives_a_state(facts: JobFacts) -> None:
    assert job_state(facts) in set(RunState)


@given(facts(), st.integers(0, 6))
def test_a_finished_attempt_always_wins(facts: JobFacts, place: int) -> None:
    done = AttemptFacts(held=False, begun=True, ending=Ending.DONE, progressed=True)
    attempts = [*facts.attempts[:place], done, *facts.attempts[place:]]
    assert job_state(JobFacts(facts.desired, facts.reset_attempts, attempts)) is RunState.SUCCEEDED


@given(facts())
def test_a_held_lock_never_gives_a_settled_state(facts: JobFacts) -> None:
    done = any(attempt.ending is Ending.DONE for attempt in facts.attempts)
    if facts.attempts and facts.attempts[-1].held and not done:
        state = job_state(facts)
        assert not state.settled and not state.finished
        assert state not in (RunState.QUEUED, RunState.BLOCKED, RunState.INTERRUPTED)


@given(facts())
def test_without_a_process_nothing_is_at_work(facts: JobFacts) -> None:
    if not (facts.attempts and facts.attempts[-1].held):
        assert job_state(facts) not in (
            RunState.STARTING, RunState.RUNNING, RunState.PAUSING, RunState.CANCELLING
        )  # fmt: skip


@given(facts())
def test_a_job_reaches_its_desired_state(facts: JobFacts) -> None:
    state = job_state(facts)
    if facts.desired is DesiredState.CANCELLED:
        assert state in (RunState.CANCELLING, RunState.CANCELLED, RunState.SUCCEEDED)
    if facts.desired is DesiredState.RUNNING:
        assert state not in (
            RunState.CANCELLING, RunState.CANCELLED, RunState.PAUSING, RunState.PAUSED
        )  # fmt: skip
    if state is RunState.PAUSED:
        assert facts.desired is DesiredState.PAUSED


@given(facts())
def test_resuming_resets_every_failure(facts: JobFacts) -> None:
    again = JobFacts(DesiredState.RUNNING, len(facts.attempts), facts.attempts)
    assert job_state(again) not in (RunState.FAILED, RunState.BLOCKED, RunState.INTERRUPTED)


@given(st.lists(ENDED, max_size=8))
def test_only_useless_deaths_in_a_row_are_a_crash_loop(attempts: list[AttemptFacts]) -> None:
    died = [a for a in attempts if a.ending is Ending.DIED]
    last = died[-MAX_DEAD_ATTEMPTS:]
    useless = len(last) == MAX_DEAD_ATTEMPTS and not any(a.progressed for a in last)
    state = job_state(JobFacts(DesiredState.RUNNING, 0, died))
    assert (state is RunState.FAILED) == useless

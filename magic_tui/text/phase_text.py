"""The phase of a run in words: progress, seconds per step, and latest figures."""

from engine.runs.events import Phase
from engine.runs.run_progress import PhaseProgress
from engine.runs.states import View
from magic_tui.text.numbers import counted, duration_text, loss_text, pace_text
from magic_tui.text.states import PHASE_NAMES

UNITS: dict[str, str] = {
    Phase.TRAIN: "step",
    Phase.MEASURE: "query",
    Phase.REPLAY: "step",
    Phase.RETRAIN: "step",
    Phase.PROBE: "step",
}


def phase_facts(phase: View) -> list[str]:
    """An API ``PhaseView`` in words, the most important fact first."""
    name = PHASE_NAMES.get(phase["phase"], str(phase["phase"]))
    facts = [f"{name} {phase['done']}/{phase['total']}" if phase["total"] else name]
    if phase["remaining_seconds"] is not None:
        facts.append(f"{duration_text(phase['remaining_seconds'])} left")
    if phase["step_seconds"] is not None:
        facts.append(pace_text(phase["step_seconds"]))
    if phase["loss"] is not None:
        facts.append(f"loss {loss_text(phase['loss'])}")
    if phase["step"] is not None:
        facts.append(f"at step {phase['step']}")
    return facts


def extent(phase: PhaseProgress) -> list[str]:
    """``12/40`` and the time left, each if known."""
    facts = [f"{phase.done}/{phase.total}"] if phase.total else []
    if phase.remaining_seconds is not None and phase.done < phase.total:
        facts.append(f"{duration_text(phase.remaining_seconds)} left")
    return facts


def details(phase: PhaseProgress) -> list[str]:
    """The latest figures, the most important first; what changes in width comes last."""
    facts = []
    if phase.subset is not None:
        facts.append(f"without {phase.subset}")
    if phase.query is not None:
        before, after = loss_text(phase.query.loss_before), loss_text(phase.query.loss_after)
        facts.append(f"query {phase.query.query}  loss {before} → {after}")
    if phase.phase is Phase.TRAIN and phase.loss is not None:
        facts.append(f"loss {loss_text(phase.loss)}")
    if phase.passes > 1:
        facts.append(f"pass {phase.pass_number + 1}/{phase.passes}")
    if phase.gradient_norm is not None:
        facts.append(f"∂φ/∂s norm {phase.gradient_norm:.1e}")
    if phase.step_seconds is not None:
        facts.append(pace_text(phase.step_seconds))
    if phase.learning_rate is not None:
        facts.append(f"lr {phase.learning_rate:.2e}")
    return [*facts, *_position(phase)]


def summary(phase: PhaseProgress) -> str:
    """A phase in one line once it has ended."""
    unit = UNITS.get(phase.phase)
    parts = [counted(phase.done, unit)] if unit and phase.done else []
    parts.append(duration_text(phase.elapsed))
    if phase.phase is Phase.TRAIN and phase.first_loss is not None and phase.loss is not None:
        parts.append(f"loss {loss_text(phase.first_loss)} → {loss_text(phase.loss)}")
    if phase.is_reproduced:
        parts.append("last step reproduced bit for bit")
    return "  ".join(parts)


def _position(phase: PhaseProgress) -> list[str]:
    if phase.rebuilding is not None:
        return [f"rebuilding step {phase.rebuilding}"]
    if phase.is_resumed:
        step = phase.step if phase.phase is Phase.REPLAY else phase.done
        return [f"resumed at step {step}"]
    if phase.phase is Phase.REPLAY and phase.step is not None:
        return [f"at step {phase.step}"]
    return []

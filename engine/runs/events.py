"""The events of a run: what ``events.jsonl`` holds and every screen is rebuilt from.

Each event is one JSON object with ``event`` (its kind), ``time`` (seconds since 1970) and the
fields below. Steps count from 0; times are seconds, memory and sizes bytes.
"""

from enum import StrEnum


class Event(StrEnum):
    """Kinds of events and their fields."""

    STARTED = "started"
    """An attempt began: ``pid``, ``work`` ("run", "attribute" or "validate"), ``job``,
    ``attempt`` (their numbers), ``warnings`` (sentences)."""
    RESUMED = "resumed"
    """A phase goes on where an earlier attempt had saved it: ``phase``, ``step``, ``done`` (how
    many of the phase's steps need not be taken again)."""
    WARNING = "warning"
    """Something the user should know: ``message``."""
    PLANNED = "planned"
    """The trajectory's schedule was chosen: ``schedule``, ``reason``, ``checkpoints`` (steps), and
    what was predicted: ``disk`` of the trajectory, ``memory`` at its peak (as the steps report it;
    null if there are few steps), ``host_memory`` of the machine's where a GPU computes."""
    PHASE = "phase"
    """A phase began: ``phase``, ``total`` (its steps), ``attribution`` (id or null)."""
    TRAIN_STEP = "train_step"
    """``step``, ``loss``, ``learning_rate``, ``gradient_norm``, ``seconds``, ``memory``."""
    CHECKPOINT = "checkpoint"
    """One more thing is safely on disk: ``step``, ``kind`` ("state" and "gradient" for the
    trajectory, "resume" and "replay" to go on from), ``bytes``."""
    MEASURED = "measured"
    """A measurement: ``query``, ``loss_before``, ``loss_after`` training."""
    PASS = "pass"
    """A replay of some queries begins: ``number``, ``passes``, ``queries``, ``reason``."""
    REBUILD_STEP = "rebuild_step"
    """A train state was rebuilt from the one before it: ``step``, ``seconds``, ``held`` (steps);
    ``waited`` (seconds for the trajectory since the step before, in a replay)."""
    REPLAY_STEP = "replay_step"
    """The replay cursor moved to ``step``: ``cotangent_norms``, ``seconds``, ``memory``,
    ``waited``."""
    REPRODUCED = "reproduced"
    """The last step was taken again: ``exact`` (the same bits), ``difference`` of gradients."""
    ATTRIBUTED = "attributed"
    """An attribution is complete: ``attribution``, ``queries``."""
    SUBMITTED = "submitted"
    """Retrainings were handed to a cluster: ``cluster``, ``jobs`` (their ids), ``folder`` (of their
    logs)."""
    RETRAIN_STEP = "retrain_step"
    """A retraining goes on, told at most once a second: ``subset``, ``step``, ``loss``, ``done``
    (steps of all retrainings that are behind), ``seconds`` (since ``done`` was told last)."""
    PROBE_STEP = "probe_step"
    """A replay that only checks another one moved to ``step``: ``done``, ``seconds``."""
    RETRAINED = "retrained"
    """A model was trained without some documents, and measured: ``subset``, ``kind``,
    ``documents`` (how many), ``done``, ``seconds`` (as in ``retrain_step``)."""
    FINISHED = "finished"
    """The worker ended well: ``work``."""
    FAILED = "failed"
    """The worker gave up: ``message``, ``exit_code``."""
    INTERRUPTED = "interrupted"
    """The worker was asked to stop: ``saved`` (whether it first saved where it was)."""


class Phase(StrEnum):
    """The three phases, what comes before them and what may come after."""

    PREPARE = "prepare"
    TRAIN = "train"
    MEASURE = "measure"
    REPLAY = "replay"
    RETRAIN = "retrain"
    PROBE = "probe"
    SCORE = "score"

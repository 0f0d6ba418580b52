"""One attempt at a job: resume what earlier attempts stored, and finish it."""

import contextlib
import math
import os
import shutil
import time
from typing import Any

import torch

from engine.attribution.attribute import attribute
from engine.attribution.device import (
    arithmetic,
    compute_as_before,
    set_up_device,
)
from engine.attribution.findings import TrainingMonitor, add_findings, flat_start
from engine.attribution.fingerprint import record_fingerprint
from engine.attribution.prediction import Prediction, host_cache_bytes, predict, with_micro_batch
from engine.attribution.prepare import (
    derivative_facts,
    derivative_warnings,
    prepare_run,
    restore_run,
    store_run,
    warnings_of,
)
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.process import Stop
from engine.attribution.queries import (
    has_stored_queries,
    query_request,
    read_queries,
    store_queries,
)
from engine.attribution.reporting import Reporter, report_outcome
from engine.cost.process_memory import release_memory
from engine.data.sources import Documents
from engine.distributed.rank_setup import join
from engine.replay.checkpointing import CheckpointingKind, checkpointing_schedule
from engine.replay.ranks import Ranks
from engine.runs.atomic import sync_tree
from engine.runs.config import RunConfig
from engine.runs.errors import DiskFullError, RunError, UsageError
from engine.runs.events import Event, Phase
from engine.runs.inputs import COPIES_FOLDER
from engine.runs.jobs import AttemptFolder, JobFolder
from engine.runs.journal import JournalWriter
from engine.runs.manifest import Key
from engine.runs.request import Request
from engine.runs.run_folder import RunFolder
from engine.training.loop import TrainControl
from engine.trajectory.reader import DamagedStepError
from engine.trajectory.recovery import SAVE_SECONDS
from engine.trajectory.writer import drop_damaged

PATIENCE_SECONDS = 10.0
"""How long to wait for the previous attempt to release the run's lock."""


def run_attempt(attempt: AttemptFolder, stop: Stop) -> dict[str, Any]:
    """Work on an attempt's job until it is done; returns the facts to print.

    Raises:
        MagicError: one sentence for any failure.
        StoppedError: if ``stop`` is set; the state is saved first.
    """
    job_folder = JobFolder(attempt.job_path)
    folder, request = job_folder.run, job_folder.request()
    device = set_up_device()
    ranks = join(device)
    with folder.lock(PATIENCE_SECONDS) if ranks.index == 0 else contextlib.nullcontext():
        report, damage = _reporter(folder) if ranks.index == 0 else (Reporter(None), None)
        with report_outcome(report, request.work):
            config = folder.config()
            report(
                Event.STARTED,
                pid=os.getpid(),
                work=request.work,
                job=job_folder.number,
                attempt=attempt.number,
                warnings=warnings_of(config),
            )
            if damage is not None:
                report(Event.WARNING, message=damage)
            if ranks.index == 0:
                attempt.begin()
            _Attempt(folder, request, report, stop, device, ranks).run(config)
    return {"run": folder.id, "path": str(folder.path), "attribution": request.attribution}


def _reporter(folder: RunFolder) -> tuple[Reporter, str | None]:
    """The reporter of a run's events, and a warning if the journal was damaged and replaced.

    Only screens read events, so a damaged journal does not end the attempt.
    """
    try:
        return Reporter(JournalWriter(folder.events_file)), None
    except RunError as error:
        aside = folder.events_file.with_name(f"events-{time.time_ns()}.damaged")
        os.rename(folder.events_file, aside)
        damage = f"{str(error).split(';')[0]}; it was renamed to {aside.name}"
        return Reporter(JournalWriter(folder.events_file)), damage


def _save_seconds() -> float:
    text = os.environ.get("MAGIC_SAVE_SECONDS", str(SAVE_SECONDS))
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise UsageError(f"MAGIC_SAVE_SECONDS is {text!r}; give a number of seconds, 0 or more")


class _Attempt:
    """An attempt at a job of one run folder."""

    def __init__(
        self,
        folder: RunFolder,
        request: Request,
        report: Reporter,
        stop: Stop,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.device = device
        self.ranks = ranks
        self.folder = folder
        self.request = request
        self.report = report
        self.stop = stop
        self.control = TrainControl(stop, _save_seconds(), resume=True)

    def run(self, config: RunConfig) -> None:
        """Prepare or restore the run, and do the job."""
        prepared = self._prepare(config) if self.request.work == "run" else self._restore()
        self.report.prepared = prepared
        if self.request.validation is not None:
            self._validate(prepared)
            return
        prepared.trainer.host_cache.budget = host_cache_bytes(prepared)
        if self.request.work == "run":
            self._train(prepared)
        prepared.trainer.open(self.folder.trajectory)
        if self.request.attribution is not None and not self._is_attributed():
            self._attribute(prepared)

    def _prepare(self, config: RunConfig) -> PreparedRun:
        """Check, plan and store the run, unless an earlier attempt did."""
        if self.ranks.all_gather(self.folder.prepared_file.exists())[0]:
            return self._restore()
        self.report.phase(Phase.PREPARE, 1)
        if self.ranks.index == 0:
            copies = self.folder.path / COPIES_FOLDER
            for unfinished in (self.folder.rows_store, self.folder.attributions, copies):
                shutil.rmtree(unfinished, ignore_errors=True)
        prepared, documents = prepare_run(config, self.device, self.ranks)
        for warning in derivative_warnings(prepared):
            self.report(Event.WARNING, message=warning)
        prepared, _ = with_micro_batch(prepared)
        self.report.prepared = prepared
        queries = None if config.queries is None else read_queries(config.queries, prepared)
        for warning in (*documents.warnings, *(queries.warnings(config) if queries else ())):
            self.report(Event.WARNING, message=warning)
        flat = flat_start(prepared)
        if flat and self.ranks.index == 0:
            add_findings(self.folder, self.report, flat)
        # Every rank measures; the prediction of rank 0 decides for all.
        prediction = self.ranks.all_gather(predict(prepared, queries, self.folder.path))[0]
        plan = prediction.chosen
        if plan.shortfall is not None:
            kind = DiskFullError if plan.lacks_disk else UsageError
            raise kind(f"trajectory.checkpointing: {plan.schedule.kind} {plan.shortfall}")
        advice = prediction.costs.limits.advice
        if advice is not None:
            self.report(Event.WARNING, message=advice)
        if self.ranks.index == 0:
            store_run(self.folder, prepared, documents)
            if queries is not None:
                store_queries(self.folder, self.request, queries)
            sync_tree(self.folder.path)
            self._write_prepared(prepared, prediction, documents)
        self.ranks.barrier()
        return prepared

    def _write_prepared(
        self, prepared: PreparedRun, prediction: Prediction, documents: Documents
    ) -> None:
        """Report the prediction, and write ``prepared.json``: the run is prepared from now on."""
        plan, peak = prediction.chosen, prediction.peak(prediction.chosen)
        self.report(
            Event.PLANNED,
            checkpointing=plan.schedule.kind,
            reason=prediction.reason,
            checkpoints=[*plan.schedule.checkpoints, plan.schedule.steps],
            memory=peak and peak.device,
            host_memory=peak and peak.host,
            disk=plan.disk_bytes,
        )
        facts: dict[str, Any] = {
            "checkpointing": plan.schedule.kind,
            "micro_batch_size": prepared.trainer.step.micro_batch_size,
            **arithmetic(prepared.device),
            "derivative": derivative_facts(prepared),
            "data": documents.facts,
            "costs": prediction.costs.record(),
            "fingerprint": record_fingerprint(
                self.folder, prepared.config, prepared.task, prepared.weights
            ),
        }
        self.folder.write_prepared(facts)

    def _restore(self) -> PreparedRun:
        """The prepared run of the folder, set to compute with the same rounding as before.

        Raises:
            RunError: if it was prepared on another kind of device.
        """
        if not self.request.elsewhere:
            warning = compute_as_before(self.folder, self.device)
            if warning is not None:
                self.report(Event.WARNING, message=warning)
        prepared = restore_run(self.folder, self.device, self.ranks)
        for warning in prepared.warnings:
            self.report(Event.WARNING, message=warning)
        return prepared

    def _validate(self, prepared: PreparedRun) -> None:
        from engine.evaluation.validate import Validator

        assert self.request.validation is not None and self.request.attribution is not None
        validator = Validator(
            self.folder, self.request.attribution, self.request.validation, self.report
        )
        validator.run(prepared)

    def _train(self, prepared: PreparedRun) -> None:
        kind: CheckpointingKind = self.folder.prepared()["checkpointing"]
        stream = prepared.stream(prepared.config.attribution.granularity)
        if not self.ranks.all_gather(self.folder.has_trajectory())[0]:
            self.report.phase(Phase.TRAIN, len(stream))
        monitor = TrainingMonitor(self.folder, self.report)
        with self.stop.between_steps():
            prepared.trainer.train(
                prepared.start,
                stream,
                save_dir=self.folder.trajectory,
                checkpointing=checkpointing_schedule(kind, len(stream)),
                observer=monitor,
                control=self.control,
            )
        monitor.finish()

    def _is_attributed(self) -> bool:
        assert self.request.attribution is not None
        done = (self.folder.attributions / self.request.attribution).is_dir()
        return self.ranks.all_gather(done)[0]

    def _attribute(self, prepared: PreparedRun) -> None:
        """Attribute the request's queries; damaged trajectory files are rebuilt, each once."""
        rebuilt: set[Key] = set()
        while (damaged := self._try_attribute(prepared)) is not None:
            if damaged in rebuilt:
                kind, step = damaged
                raise RunError(
                    f"the {kind} of step {step} in {self.folder.trajectory} was damaged, rebuilt, "
                    "and is damaged again; check the disk"
                )
            rebuilt.add(damaged)
            self._rebuild(prepared, damaged)

    def _try_attribute(self, prepared: PreparedRun) -> Key | None:
        """Attribute the request's queries; returns the trajectory file that is damaged, if any."""
        # Training's freed blocks have other sizes than those that the replay allocates.
        release_memory()
        # Rank 0 stores the queries; the other ranks read them.
        if self.ranks.index != 0:
            self.ranks.barrier()
        is_new = not has_stored_queries(self.folder, self.request)
        request = query_request(self.folder, self.request, prepared)
        for warning in request.queries.warnings(prepared.config) if is_new else ():
            self.report(Event.WARNING, message=warning)
        if self.ranks.index == 0:
            self.ranks.barrier()
        try:
            attribute(request, prepared, self.report, self.stop, self.control.save_seconds)
        except DamagedStepError as error:
            return error.key
        return None

    def _rebuild(self, prepared: PreparedRun, damaged: Key) -> None:
        """Compute a damaged file of the trajectory again from an earlier train state."""
        kind, step = damaged
        self.report(
            Event.WARNING,
            message=f"the {kind} of step {step} on disk is damaged; it is computed again from an "
            "earlier train state",
        )
        if self.ranks.index == 0:
            drop_damaged(self.folder.trajectory, damaged)
        self.ranks.barrier()
        self._train(prepared)

"""One attempt at a job: whatever earlier attempts committed is kept, and the rest is done."""

import contextlib
import math
import os
import shutil
import time
from typing import Any

import torch

from engine.attribution.attribute import attribute
from engine.attribution.budget import with_micro_batch
from engine.attribution.device import (
    arithmetic,
    compute_as_before,
    give_back_memory,
    set_up_device,
)
from engine.attribution.error_reporting import reported
from engine.attribution.findings import TrainingWatch, add_findings, flat_start
from engine.attribution.fingerprint import record_fingerprint
from engine.attribution.prediction import Prediction, predict
from engine.attribution.prepare import (
    derivative_facts,
    derivative_warnings,
    new_job,
    stored_job,
    warnings_of,
    write_job,
)
from engine.attribution.prepared_run import Job
from engine.attribution.queries import Queries, read_queries
from engine.attribution.query_request import asking_of, is_stored, store_asked
from engine.attribution.reporter import Reporter
from engine.attribution.stop import Stop
from engine.attribution.tiers import host_tier_bytes
from engine.data.sources import Documents
from engine.distributed.rank_setup import join
from engine.replay.checkpointing import CheckpointingKind, checkpointing_schedule
from engine.replay.ranks import Ranks
from engine.runs.atomic import sync_tree
from engine.runs.config import RunConfig
from engine.runs.errors import DiskFullError, RunError, UsageError
from engine.runs.events import Event, Phase
from engine.runs.inputs import KEPT
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
"""An attempt before this one may still be letting go of the run."""


def work(attempt: AttemptFolder, stop: Stop) -> dict[str, Any]:
    """Do the job that an attempt is at; returns the facts to print.

    Raises:
        MagicError: one sentence for whatever went wrong.
        StoppedError: if it was asked to stop, once it has saved.
    """
    job_folder = JobFolder(attempt.job_path)
    folder, request = job_folder.run, job_folder.request()
    device = set_up_device()
    ranks = join(device)
    with folder.lock(PATIENCE_SECONDS) if ranks.index == 0 else contextlib.nullcontext():
        report, damage = _reporter(folder) if ranks.index == 0 else (Reporter(None), None)
        with reported(report, request.work):
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
            run = _Run(folder, request, report, stop, device, ranks)
            job = run.prepared(config) if request.work == "run" else run.stored()
            report.job = job
            if request.validation is not None:
                _validate(folder, request, report, job)
            else:
                run.train_and_attribute(job)
    return {"run": folder.id, "path": str(folder.path), "attribution": request.attribution}


def _reporter(folder: RunFolder) -> tuple[Reporter, str | None]:
    """Who writes the events, and what happened to those before if they are damaged.

    Only screens live on events: work that is intact must not end over one of them.
    """
    try:
        return Reporter(JournalWriter(folder.events_file)), None
    except RunError as error:
        aside = folder.events_file.with_name(f"events-{time.time_ns()}.damaged")
        os.rename(folder.events_file, aside)
        damage = f"{str(error).split(';')[0]}; it was put aside as {aside.name}"
        return Reporter(JournalWriter(folder.events_file)), damage


def _validate(folder: RunFolder, request: Request, report: Reporter, job: Job) -> None:
    from engine.evaluation.validate import Validating

    assert request.validation is not None and request.attribution is not None
    Validating(folder, request.attribution, request.validation, report).run(job)


def _save_seconds() -> float:
    text = os.environ.get("MAGIC_SAVE_SECONDS", str(SAVE_SECONDS))
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    raise UsageError(f"MAGIC_SAVE_SECONDS is {text!r}; give a number of seconds, 0 or more")


class _Run:
    """A job's work on one run folder."""

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

    def prepared(self, config: RunConfig) -> Job:
        """The job, its data checked, stored and planned, by this attempt or one before."""
        if self.ranks.all_gather(self.folder.prepared_file.exists())[0]:
            return self.stored()
        self.report.phase(Phase.PREPARE, 1)
        if self.ranks.index == 0:
            copies = self.folder.path / KEPT
            for unfinished in (self.folder.rows_store, self.folder.attributions, copies):
                shutil.rmtree(unfinished, ignore_errors=True)
        job, documents = new_job(config, self.device, self.ranks)
        for warning in derivative_warnings(job):
            self.report(Event.WARNING, message=warning)
        job, _ = with_micro_batch(job)
        self.report.job = job
        queries = None if config.queries is None else read_queries(config.queries, job)
        for warning in (*documents.warnings, *(queries.warnings(config) if queries else ())):
            self.report(Event.WARNING, message=warning)
        flat = flat_start(job)
        if flat and self.ranks.index == 0:
            add_findings(self.folder, self.report, flat)
        # Each measures its own; those of the first rank decide for all.
        found = self.ranks.all_gather(predict(job, queries, self.folder.path))[0]
        plan = found.chosen
        if plan.why_not is not None:
            kind = DiskFullError if plan.lacks_disk else UsageError
            raise kind(f"trajectory.checkpointing: {plan.schedule.kind} {plan.why_not}")
        if found.budget.advice is not None:
            self.report(Event.WARNING, message=found.budget.advice)
        if self.ranks.index == 0:
            self._write(job, documents, queries)
            self._commit(job, found, documents)
        self.ranks.barrier()
        return job

    def _commit(self, job: Job, found: Prediction, documents: Documents) -> None:
        """Say what was predicted, and that everything is stored."""
        plan, peak = found.chosen, found.peak(found.chosen)
        self.report(
            Event.PLANNED,
            checkpointing=plan.schedule.kind,
            reason=found.reason,
            checkpoints=[*plan.schedule.checkpoints, plan.schedule.steps],
            memory=peak and peak.device,
            host_memory=peak and peak.host,
            disk=plan.disk_bytes,
        )
        settled = {"micro_batch_size": job.trainer.step.micro_batch_size}
        facts: dict[str, Any] = {
            "checkpointing": plan.schedule.kind,
            **settled,
            **arithmetic(job.device),
        }
        facts |= {
            "derivative": derivative_facts(job),
            "data": documents.facts,
            "fingerprint": record_fingerprint(self.folder, job.config, job.task, job.weights),
        }
        self.folder.write_prepared(facts)

    def _write(self, job: Job, documents: Documents, queries: Queries | None) -> None:
        """What every later attempt takes up again."""
        write_job(self.folder, job, documents)
        if queries is not None:
            store_asked(self.folder, self.request, queries)
        sync_tree(self.folder.path)

    def stored(self) -> Job:
        """The job of a run that is prepared, computing as it did before if it computes here.

        Raises:
            RunError: if it was prepared on another kind of device.
        """
        if not self.request.elsewhere:
            warning = compute_as_before(self.folder, self.device)
            if warning is not None:
                self.report(Event.WARNING, message=warning)
        job = stored_job(self.folder, self.device, self.ranks)
        for warning in job.warnings:
            self.report(Event.WARNING, message=warning)
        return job

    def train_and_attribute(self, job: Job) -> None:
        """Bring the trajectory to its end, and ask it; damaged files of it are made again."""
        job.trainer.host_cache.budget = host_tier_bytes(job)
        if self.request.work == "run":
            self._train(job)
        job.trainer.open(self.folder.trajectory)
        if self.request.attribution is None or self._is_attributed():
            return
        mended: set[Key] = set()
        while (damaged := self._attribute(job)) is not None:
            if damaged in mended:
                kind, step = damaged
                raise RunError(
                    f"the {kind} of step {step} in {self.folder.trajectory} was damaged, made "
                    "again, and is damaged again; check the disk"
                )
            mended.add(damaged)
            self._mend(job, damaged)

    def _train(self, job: Job) -> None:
        kind: CheckpointingKind = self.folder.prepared()["checkpointing"]
        stream = job.stream(job.config.attribution.granularity)
        if not self.ranks.all_gather(self.folder.has_trajectory())[0]:
            self.report.phase(Phase.TRAIN, len(stream))
        watch = TrainingWatch(self.folder, self.report)
        with self.stop.between_steps():
            job.trainer.train(
                job.start,
                stream,
                save_dir=self.folder.trajectory,
                checkpointing=checkpointing_schedule(kind, len(stream)),
                observer=watch,
                control=self.control,
            )
        watch.finish()

    def _attribute(self, job: Job) -> Key | None:
        """Ask the trajectory; returns which file of it is damaged, if one is."""
        # What the training let go of has other sizes than what the replay takes.
        give_back_memory()
        # The first rank stores what is asked, the others read it there.
        if self.ranks.index != 0:
            self.ranks.barrier()
        is_new = not is_stored(self.folder, self.request)
        asking = asking_of(self.folder, self.request, job)
        for warning in asking.queries.warnings(job.config) if is_new else ():
            self.report(Event.WARNING, message=warning)
        if self.ranks.index == 0:
            self.ranks.barrier()
        try:
            attribute(asking, job, self.report, self.stop, self.control.save_seconds)
        except DamagedStepError as error:
            return error.key
        return None

    def _is_attributed(self) -> bool:
        assert self.request.attribution is not None
        done = (self.folder.attributions / self.request.attribution).is_dir()
        return self.ranks.all_gather(done)[0]

    def _mend(self, job: Job, damaged: Key) -> None:
        """Make a damaged file of the trajectory again from what came before it."""
        kind, step = damaged
        self.report(
            Event.WARNING,
            message=f"the {kind} of step {step} on disk is damaged; it is made again from what "
            "came before it",
        )
        if self.ranks.index == 0:
            drop_damaged(self.folder.trajectory, damaged)
        self.ranks.barrier()
        self._train(job)

"""The work of ``magic validate``: retrain what is not cached, and compare with the predictions."""

import contextlib
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from engine.attribution.fingerprint import identity_of
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.reporting import Reporter
from engine.evaluation.baselines.scoring import score_baselines
from engine.evaluation.cluster import abandoned_results, retrain_on_cluster
from engine.evaluation.metasmoothness import TRAININGS, is_measured, measure_metasmoothness
from engine.evaluation.numerical_agreement import measure_numerical_agreement
from engine.evaluation.processes import retrain_in_processes
from engine.evaluation.retraining import Retrained, Retrainer, Task
from engine.evaluation.retrainings import Retrainings, ValidationTable
from engine.evaluation.subsets import (
    NOTHING,
    Subset,
    metasmoothness_subset,
    most_helpful,
    random_subsets,
    single_documents,
)
from engine.evaluation.validation import VALIDATION_FILE
from engine.replay.replay import Observer, null_observer
from engine.runs.errors import UsageError
from engine.runs.events import Event, Phase
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader, find_attribution

_EVENT_SECONDS = 1.0
"""Least time between two progress events of a retraining."""


class Validator:
    """Validates one attribution of a run, using its cached retrainings."""

    def __init__(
        self, folder: RunFolder, attribution: str, request: ValidationRequest, report: Reporter
    ) -> None:
        """Validate ``attribution`` as requested.

        Raises:
            UsageError: if there is no such complete attribution.
        """
        self.folder, self.request, self.report = folder, request, report
        self.attribution = find_attribution(folder.attributions, attribution)
        reader = ScoreReader(self.attribution)
        self.scores = np.stack([reader.document_scores(q) for q in range(reader.queries)])
        """(query, document)"""

    def run(self, job: PreparedRun) -> None:
        """Retrain and measure what is missing, on all ranks; the first rank writes the files.

        Raises:
            UsageError: if the request does not fit the run.
            RunError: if the cache is damaged or the disk is full.
        """
        ranks = job.trainer.ranks
        if (self.request.jobs > 1 or self.request.cluster) and ranks.count > 1:
            option = "--cluster" if self.request.cluster else "--jobs"
            raise UsageError(f"{option} needs a run on one rank: the ranks share every retraining")
        subsets = list(dict.fromkeys(self.subsets(job.documents)))
        retrainer = Retrainer(self.folder, job, self.request.keep_models)
        if ranks.index != 0:
            for task in ranks.all_gather(list[Task]())[0]:
                retrainer(task)
        else:
            self._retrain_all(job, retrainer, subsets)
        self._measure_indicators(job, retrainer)

    def subsets(self, documents: int) -> Iterator[Subset]:
        """The requested subsets; some may occur twice."""
        yield from random_subsets(documents, self.request)
        yield from single_documents(documents, self.request)
        for count in self.request.drop_top:
            for query, scores in enumerate(self.scores):
                yield most_helpful(self.attribution.name, query, scores, count)

    def _retrain_all(self, job: PreparedRun, retrainer: Retrainer, subsets: list[Subset]) -> None:
        """On the first rank: open the cache, adopt abandoned results, and retrain the rest."""
        cache = Retrainings(
            self.folder.retrainings_file, identity_of(self.folder.prepared()["fingerprint"])
        )
        if cache.ignored:
            self.report(
                Event.WARNING,
                message=f"{cache.ignored} retrainings in {self.folder.retrainings_file} were made "
                "from other weights, data or code than this run; they are not used",
            )
        try:
            for each in abandoned_results(self.folder):
                name = each.subset.name
                if any(cache.measured(name, other) is None for other in each.measurements):
                    cache.add(each.subset, each.measurements, each.model)
            self._retrain_missing(job, cache, retrainer, subsets)
        finally:
            cache.close()

    def _retrain_missing(
        self, job: PreparedRun, cache: Retrainings, retrainer: Retrainer, subsets: list[Subset]
    ) -> None:
        missing, full = self._missing(cache, subsets), self._missing(cache, [NOTHING])
        tasks = job.trainer.ranks.all_gather([*full, *missing])[0]
        steps, cached = len(job.order), len(subsets) - len(missing)
        # Every line of the table needs φ with all documents, which is measured first.
        table = None if full else self._table(cache)
        self.report.phase(Phase.RETRAIN, len(subsets) * steps, self.attribution.name)
        if cached:
            done = cached * steps
            self.report(Event.RESUMED, phase=str(Phase.RETRAIN), step=done, done=done)
        progress = _Progress(self.report, cached * steps, steps)
        with contextlib.closing(self._results(retrainer, tasks, progress)) as results:
            for each in results:
                cache.add(each.subset, each.measurements, each.model)
                if each.subset == NOTHING:
                    table = self._table(cache)
                    continue
                if table is not None:
                    table.add(each.subset, each.measurements[self.attribution.name])
                progress.finished(each)

    def _results(
        self, retrainer: Retrainer, tasks: list[Task], progress: "_Progress"
    ) -> Generator[Retrained, None, None]:
        if self.request.cluster is not None and tasks:
            return retrain_on_cluster(self.folder, tasks, self.request, self.report)
        processes = min(self.request.jobs, len(tasks))
        if processes > 1:
            return retrain_in_processes(self.folder, tasks, processes, self.request.keep_models)
        return (retrainer(task, progress.observer(task[0])) for task in tasks)

    def _measure_indicators(self, job: PreparedRun, retrainer: Retrainer) -> None:
        """Metasmoothness, numerical agreement and baselines, as requested."""
        name, steps = self.attribution.name, len(job.order)
        if self.request.metasmoothness:
            subset = metasmoothness_subset(job.documents, self.request)
            if not job.trainer.ranks.all_gather(is_measured(self.folder))[0]:
                self.report.phase(Phase.RETRAIN, TRAININGS * steps, name)
            each = (_Progress(self.report, n * steps, steps) for n in range(TRAININGS))
            observers = (progress.observer(subset) for progress in each)
            measure_metasmoothness(self.folder, job, retrainer, subset, observers)
        if self.request.numerical_agreement:
            self.report.phase(Phase.PROBE, steps, name)
            progress = _Progress(self.report, 0, steps)
            measure_numerical_agreement(
                self.folder, self.attribution, job, progress.replay_observer
            )
        if self.request.baselines:
            self.report.phase(Phase.SCORE, 0, name)
            for method, failure in score_baselines(self.folder, self.attribution, job, retrainer):
                if failure is not None:
                    self.report(Event.WARNING, message=f"no scores by {method}: {failure}")

    def _missing(self, cache: Retrainings, subsets: Sequence[Subset]) -> list[Task]:
        """The subsets whose models have no measurement of the attribution's queries."""
        name = self.attribution.name
        missing = [subset for subset in subsets if cache.measured(subset.name, name) is None]
        return [(subset, cache.model(subset.name)) for subset in missing]

    def _table(self, cache: Retrainings) -> ValidationTable:
        """Rewrite the table from the cache."""
        name = self.attribution.name
        full = cache.measured(NOTHING.name, name) or []
        table = ValidationTable(self.attribution / VALIDATION_FILE, self.scores, full)
        subsets = [subset for subset in cache.subsets(name) if subset != NOTHING]
        table.write((subset, cache.measured(subset.name, name) or []) for subset in subsets)
        return table


class _Progress:
    """Reports the steps of retrainings as events, at most one a second."""

    def __init__(self, report: Reporter, done: int, steps: int) -> None:
        """Start after ``done`` steps; each retraining takes ``steps``."""
        self._report, self._done, self._steps = report, done, steps
        self._last = time.monotonic()

    def observer(self, subset: Subset) -> Observer:
        """The observer of one retraining. The one of ``NOTHING`` is not counted."""
        if subset == NOTHING:
            return null_observer

        def observe(event: str, /, **facts: Any) -> None:
            if event == "train_step" and time.monotonic() - self._last >= _EVENT_SECONDS:
                step = int(facts["step"])
                self._report(
                    Event.RETRAIN_STEP,
                    subset=subset.name,
                    step=step,
                    loss=facts["loss"],
                    done=self._done + step + 1,
                    seconds=self._lap(),
                )

        return observe

    def replay_observer(self, event: str, /, **facts: Any) -> None:
        """The observer of the replay for the numerical agreement."""
        if event == "replay_step":
            self._done += 1
            step = facts["step"]
            self._report(Event.PROBE_STEP, step=step, done=self._done, seconds=self._lap())

    def finished(self, each: Retrained) -> None:
        """Report a finished retraining."""
        self._done += self._steps
        self._report(
            Event.RETRAINED,
            subset=each.subset.name,
            kind=each.subset.kind,
            documents=len(each.subset.documents),
            done=self._done,
            seconds=self._lap(),
        )

    def _lap(self) -> float:
        now, before = time.monotonic(), self._last
        self._last = now
        return now - before

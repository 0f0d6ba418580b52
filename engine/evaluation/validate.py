"""The work of ``magic validate``: retrain what the bank lacks, and compare with the predictions."""

import contextlib
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from engine.attribution.fingerprint import identity_of
from engine.attribution.prepared_run import PreparedRun
from engine.attribution.reporting import Reporter
from engine.evaluation.baselines.scoring import score_baselines
from engine.evaluation.metasmoothness import TRAININGS, is_probed, measure_metasmoothness
from engine.evaluation.numerical_agreement import measure_agreement
from engine.evaluation.on_cluster import finished_by_lost_owners, on_cluster
from engine.evaluation.pace import Pace
from engine.evaluation.retraining import Retrained, Retrainer, Task
from engine.evaluation.retrainings import Retrainings
from engine.evaluation.side_by_side import side_by_side
from engine.evaluation.subsets import (
    NOTHING,
    Subset,
    drawn_documents,
    drawn_shares,
    probed_subset,
    strongest,
)
from engine.evaluation.table import ValidationTable
from engine.runs.errors import UsageError
from engine.runs.events import Event, Phase
from engine.runs.request import ValidationRequest
from engine.runs.run_folder import RunFolder
from engine.runs.score_store import ScoreReader, find_attribution

VALIDATION_FILE = "validation.csv"


class Validating:
    """Validates one attribution of a run, going on with what its bank holds."""

    def __init__(
        self, folder: RunFolder, attribution: str, asked: ValidationRequest, report: Reporter
    ) -> None:
        """Validate ``attribution`` as ``asked``.

        Raises:
            UsageError: if there is no such attribution, or it is not complete.
        """
        self.folder, self.asked, self.report = folder, asked, report
        self.attribution = find_attribution(folder.attributions, attribution)
        reader = ScoreReader(self.attribution)
        self.scores = np.stack([reader.document_scores(q) for q in range(reader.queries)])
        """(query, document)"""

    def run(self, job: PreparedRun) -> None:
        """Retrain and measure what is lacking, on all ranks; the first one keeps the books.

        Raises:
            UsageError: if what is asked does not fit the run.
            RunError: if the bank is damaged or the disk is full.
        """
        ranks = job.trainer.ranks
        if (self.asked.jobs > 1 or self.asked.cluster) and ranks.count > 1:
            option = "--cluster" if self.asked.cluster else "--jobs"
            raise UsageError(f"{option} needs a run on one rank: the ranks share every retraining")
        # What is asked for twice is one and the same.
        wanted = list(dict.fromkeys(self._wanted(job.documents)))
        retrainer = Retrainer(self.folder, job, self.asked.keep_models)
        if ranks.index != 0:
            for task in ranks.all_gather(list[Task]())[0]:
                retrainer(task)
            self._probe(job, retrainer)
            return
        bank = Retrainings(
            self.folder.retrainings_file, identity_of(self.folder.prepared().get("fingerprint"))
        )
        if bank.left_aside:
            self.report(
                Event.WARNING,
                message=f"{bank.left_aside} retrainings in {self.folder.retrainings_file} "
                "were made from other weights, data or code than this run; they are not used",
            )
        try:
            for each in finished_by_lost_owners(self.folder):
                name = each.subset.name
                if any(bank.measured(name, asked) is None for asked in each.measured):
                    _record(bank, each)
            self._run(job, bank, retrainer, wanted)
        finally:
            bank.close()
        self._probe(job, retrainer)

    def _run(
        self, job: PreparedRun, bank: Retrainings, retrainer: Retrainer, wanted: list[Subset]
    ) -> None:
        lacking, whole = self._lacking(bank, wanted), self._lacking(bank, [NOTHING])
        tasks = job.trainer.ranks.all_gather([*whole, *lacking])[0]
        steps, done = len(job.order), len(wanted) - len(lacking)
        # Every line of the table says what came out with all documents.
        table = None if whole else self._table(bank)
        self.report.phase(Phase.RETRAIN, len(wanted) * steps, self.attribution.name)
        if done:
            behind = done * steps
            self.report(Event.RESUMED, phase=str(Phase.RETRAIN), step=behind, done=behind)
        pace = Pace(self.report, done * steps, steps)
        with contextlib.closing(self._retrained(retrainer, tasks, pace)) as all_retrained:
            for each in all_retrained:
                _record(bank, each)
                if each.subset == NOTHING:
                    table = self._table(bank)
                    continue
                if table is not None:
                    table.add((each.subset, each.measured[self.attribution.name]))
                pace.retrained(each)

    def _probe(self, job: PreparedRun, retrainer: Retrainer) -> None:
        """What tells of trust without many retrainings."""
        name, steps = self.attribution.name, len(job.order)
        if self.asked.metasmoothness:
            subset = probed_subset(job.documents, self.asked)
            if not job.trainer.ranks.all_gather(is_probed(self.folder))[0]:
                self.report.phase(Phase.RETRAIN, TRAININGS * steps, name)
            observers = (Pace(self.report, n * steps, steps).observer(subset) for n in range(2))
            measure_metasmoothness(self.folder, job, retrainer, subset, observers)
        if self.asked.numerical_agreement:
            self.report.phase(Phase.PROBE, steps, name)
            pace = Pace(self.report, 0, steps)
            measure_agreement(self.folder, self.attribution, job, pace.probe)
        if self.asked.baselines:
            self.report.phase(Phase.SCORE, 0, name)
            for method, why_not in score_baselines(self.folder, self.attribution, job, retrainer):
                if why_not is not None:
                    self.report(Event.WARNING, message=f"no scores by {method}: {why_not}")

    def _retrained(
        self, retrainer: Retrainer, tasks: list[Task], pace: Pace
    ) -> Generator[Retrained, None, None]:
        if self.asked.cluster is not None and tasks:
            return on_cluster(self.folder, tasks, self.asked, self.report)
        processes = min(self.asked.jobs, len(tasks))
        if processes > 1:
            return side_by_side(self.folder, tasks, processes, self.asked.keep_models)
        return (retrainer(task, pace.observer(task[0])) for task in tasks)

    def _wanted(self, documents: int) -> Iterator[Subset]:
        yield from drawn_shares(documents, self.asked)
        yield from drawn_documents(documents, self.asked)
        for count in self.asked.drop_top:
            for query, scores in enumerate(self.scores):
                yield strongest(self.attribution.name, query, scores, count)

    def _lacking(self, bank: Retrainings, wanted: Sequence[Subset]) -> list[Task]:
        """The subsets on whose models the attribution's queries were not measured yet."""
        name = self.attribution.name
        lacking = [subset for subset in wanted if bank.measured(subset.name, name) is None]
        return [(subset, bank.model(subset.name)) for subset in lacking]

    def _table(self, bank: Retrainings) -> ValidationTable:
        """The table, written anew with all that the bank has for it."""
        name = self.attribution.name
        full = bank.measured(NOTHING.name, name) or []
        table = ValidationTable(self.attribution / VALIDATION_FILE, self.scores, full)
        subsets = [subset for subset in bank.subsets(name) if subset != NOTHING]
        table.write((subset, bank.measured(subset.name, name) or []) for subset in subsets)
        return table


def _record(bank: Retrainings, each: Retrained) -> None:
    bank.add(each.subset, each.measured, each.model)

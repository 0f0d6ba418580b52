"""What one job on a cluster does: it takes retrainings from the pool until none is left.

submitit pickles a :class:`Share`, and calls it on the job's machine. Everything else goes through
the run's folder, which that machine has to see.
"""

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.attribution.device import compute_as_before, set_up_device
from engine.attribution.prepare import restore_run
from engine.attribution.reporting import errors_with_remedy
from engine.evaluation.pool import Pool
from engine.evaluation.retraining import Retrainer
from engine.runs.environment import keep_files_private
from engine.runs.errors import MagicError, unexpected
from engine.runs.run_folder import RunFolder


@dataclass(frozen=True)
class Share:
    """A job; calling it returns the sentence it gave up with, or None if nothing is left to do."""

    run: Path
    pool: Path
    keep: bool
    visible: str | None = None
    """$CUDA_VISIBLE_DEVICES, where not the cluster decides which devices a job has."""

    def __call__(self) -> str | None:
        """Retrain until none is left."""
        keep_files_private()
        try:
            with errors_with_remedy():
                self._retrain()
        except MagicError as error:
            return str(error)
        except Exception as error:
            # Only the log has room for more than a sentence.
            traceback.print_exc()
            return unexpected(error)
        return None

    def checkpoint(self) -> Any:
        """What is submitted in its place when it is preempted or its time is up: the same again.

        Under its id it takes up what it had taken; what it has finished is not done again.
        """
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _retrain(self) -> None:
        from submitit import JobEnvironment

        pool, who = Pool(self.pool), str(JobEnvironment().job_id)
        taken = pool.take(who)
        if taken is None:
            return
        if self.visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.visible
        folder, device = RunFolder(self.run), set_up_device()
        warning = compute_as_before(folder, device)
        retrainer = Retrainer(folder, restore_run(folder, device), self.keep)
        while taken is not None:
            pool.finish(taken, who, retrainer(taken.task), warning)
            taken = pool.take(who)

"""Read a finished run in Python: :func:`open_run`. Needs no torch and no engine process."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.trust import read_verdict
from engine.evaluation.validation import Validation, read_validation
from engine.evaluation.verdict import Verdict
from engine.runs.errors import NotFoundError
from engine.runs.listing import find_run
from engine.runs.paths import runs_folder
from engine.runs.run_folder import RunFolder
from engine.runs.run_history import read_history
from engine.runs.score_store import Floats, list_attributions
from engine.runs.tables import read_table
from engine.scores.attribution import Attribution, Query, open_attribution
from engine.scores.document import check_document, read_parts, token_scores, token_texts

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.runs.config import RunConfig


@dataclass(frozen=True)
class FinishedRun:
    """A run and one of its attributions; every property is read on first use and cached.

    Tables are :class:`pyarrow.Table`; ``table.to_pandas()`` makes a DataFrame.
    """

    path: Path
    """The run's folder."""
    selected: str | None = None
    """The attribution to read; None for the latest complete one."""

    @property
    def id(self) -> str:
        """The run's id."""
        return self._folder.id

    @cached_property
    def config(self) -> "RunConfig":
        """The config with all defaults filled in."""
        return self._folder.config()

    @cached_property
    def documents(self) -> "pa.Table":
        """The training documents with the columns of the training data; row i is document i."""
        return read_table(self._folder.documents_file)

    @property
    def attributions(self) -> list[str]:
        """Ids of the complete attributions, oldest first."""
        return [folder.name for folder in list_attributions(self._folder.attributions)]

    @property
    def attribution(self) -> str:
        """Id of the attribution that is read."""
        return self._attribution.id

    @property
    def queries(self) -> list[Query]:
        """The queries, in the order of the scores' first axis.

        Each has ``documents`` (texts, columns and losses before and after training) and the
        measurement φ ``before`` and ``after`` training.
        """
        return self._attribution.queries

    @cached_property
    def scores(self) -> Floats:
        """Document scores ∂φ/∂w, (query, document).

        A negative score is helpful: more weight on the document lowers the query's loss.
        """
        queries = range(self._attribution.scores.queries)
        return np.stack([self._attribution.scores.document_scores(query) for query in queries])

    @property
    def has_token_scores(self) -> bool:
        """Whether token scores were stored (``attribution.granularity: token``)."""
        return self._attribution.scores.has_tokens

    def token_scores(self, document: int) -> Floats:
        """Token scores of a document, (query, token), in the order of :meth:`tokens`.

        Reads the rows of this document only.

        Raises:
            UsageError: if there is no such document, or only document scores were stored.
        """
        check_document(self._attribution, document)
        tokens, _ = read_parts(self._attribution, document)
        if not self.has_token_scores:
            # Raises the reader's own error, which names the granularity.
            self._attribution.scores.token_scores(0, slice(0, 1))
        queries = range(self._attribution.scores.queries)
        return np.stack([token_scores(self._attribution, query, tokens) for query in queries])

    def tokens(self, document: int) -> "pa.Table":
        """The tokens of a document, in the order of its text.

        Columns: ``text``, ``id``, ``row`` and ``position`` (where the token is in the model inputs)
        and ``target`` (whether a loss is taken at the position). Of tokens that share a character
        the last has the text. A document without tokens, such as an image, has one row.

        Raises:
            UsageError: if there is no such document.
        """
        import pyarrow as pa

        check_document(self._attribution, document)
        tokens, pieces = read_parts(self._attribution, document)
        return pa.table(
            {
                "text": token_texts(tokens, pieces),
                "id": tokens.ids,
                "row": tokens.rows,
                "position": tokens.positions,
                "target": tokens.targets,
            }
        )

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Training loss of each step, (step,); NaN where none was recorded."""
        history = read_history(self._folder)
        return history.by_step("loss", history.total_steps or len(history.step_seconds))

    @cached_property
    def validation(self) -> "pa.Table | None":
        """Predicted and actual φ of the retrained subsets; None if there are none.

        Columns: ``query``, ``subset``, ``kind``, ``predicted`` and ``actual``. Lines with a value
        that is not finite are left out.
        """
        import pyarrow as pa

        validation = self.retrained_subsets
        if validation is None:
            return None
        return pa.table(
            {
                "query": [p.query for p in validation.points for _ in p.subsets],
                "subset": [name for p in validation.points for name in p.subsets],
                "kind": [kind for p in validation.points for kind in p.kinds],
                "predicted": np.concatenate([p.predicted for p in validation.points]),
                "actual": np.concatenate([p.actual for p in validation.points]),
            }
        )

    @property
    def retrained_subsets(self) -> Validation | None:
        """The retrained subsets with their LDS and intervals by kind; None if there are none."""
        return read_validation(self._attribution.path)

    @property
    def verdict(self) -> Verdict:
        """Whether the scores can be trusted: ``symbol``, ``words``, ``reason`` and ``remedy``."""
        return read_verdict(self.path, self._attribution.id)

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.path)

    @cached_property
    def _attribution(self) -> Attribution:
        return open_attribution(self._folder, self.selected)


def open_run(
    run: str | Path | None = None,
    *,
    attribution: str | None = None,
    runs_dir: str | Path | None = None,
) -> FinishedRun:
    """Open a run to read its documents, queries, scores, losses and validation.

    Args:
        run: a run's folder, or, as on the command line, its id, a unique prefix of the id, or its
            name. By default the latest run.
        attribution: id of the attribution to read, such as "a0001"; by default the latest complete
            one.
        runs_dir: the folder with the runs, if ``run`` is not a path; by default ``$MAGIC_RUNS`` or
            ``~/.local/share/magic/runs``.

    Raises:
        NotFoundError: if there is no such run.
        ConflictError: if several runs match.
        UsageError: if the folder is no run, or has no such complete attribution. Runs without
            scores can be opened; reading ``scores`` or anything else of an attribution raises.
        RunError: on reading a damaged file.

    Example:
        >>> import engine
        >>> run = engine.open_run("my-run")
        >>> run.scores.shape
        (2, 1000)
        >>> most_helpful = run.scores[0].argsort()[:10]
        >>> run.documents.to_pandas().loc[most_helpful, "text"]
        >>> document = int(most_helpful[0])
        >>> tokens = run.tokens(document).to_pandas()
        >>> tokens["score"] = run.token_scores(document)[0]
        >>> run.verdict.words
        'trusted, LDS 0.93 at 5 %'
    """
    given = None if run is None else Path(run).expanduser()
    is_path = given is not None and (isinstance(run, Path) or len(given.parts) > 1)
    if given is not None and is_path:
        if not given.is_dir():
            raise NotFoundError(f"there is no folder {given}; give a run's folder, id or name")
        folder = RunFolder(given)
    else:
        runs = runs_folder(None if runs_dir is None else Path(runs_dir))
        folder = find_run(runs, None if run is None else str(run))
    # Fails early for a folder that is no run, or of an unknown format version.
    folder.record()
    opened = FinishedRun(folder.path, attribution)
    if attribution is not None:
        opened.attribution  # noqa: B018
    return opened

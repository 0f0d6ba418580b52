"""The scores of one attribution: arrays in ``scores.zarr`` and a completion record.

A score is ∂φ/∂w. A negative score is helpful: more weight on the token or document lowers the
query's loss. A positive score is harmful. Readers open an attribution only if its completion record
``complete.json`` exists.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.runs.arrays import create_array, open_array, read, rows_per_chunk
from engine.runs.atomic import sync_tree
from engine.runs.checksummed import FILES, ChangedError, digests_of, read_record, write_record
from engine.runs.errors import RunError, UsageError

FORMAT_VERSION = 1
SIGN_CONVENTION = (
    "score = d(query loss)/d(weight): negative is helpful (more weight lowers the query's loss), "
    "positive is harmful"
)
TOP_DOCUMENTS = 1000

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ScoreShape:
    """Sizes of an attribution's arrays."""

    queries: int
    rows: int
    tokens: int
    documents: int
    steps: int
    dtype: str
    granularity: str

    @property
    def top(self) -> int:
        """Number of documents in ``top_documents`` for each query and direction."""
        return min(TOP_DOCUMENTS, self.documents)


class ScoreWriter:
    """Writes each query's scores once; readers see nothing before :meth:`complete`."""

    def __init__(self, attribution: Path, shape: ScoreShape, *, resume: bool = False) -> None:
        """Create ``scores.zarr`` in an attribution's folder.

        Args:
            attribution: the folder.
            shape: sizes of the arrays.
            resume: continue with the arrays of an interrupted writer.
        """
        self.attribution = attribution
        self.shape = shape
        store = attribution / "scores.zarr"
        if resume:
            for unfinished in store.rglob("*.partial"):
                unfinished.unlink()
            self._arrays = {name: open_array(store, name, "r+") for name in _layout(shape)}
            return
        shutil.rmtree(store, ignore_errors=True)
        self._arrays = {
            name: create_array(store, name, *arguments)
            for name, arguments in _layout(shape).items()
        }

    def write(self, query: int, tokens: Floats, documents: Floats, steps: Floats) -> None:
        """Write the scores of one query: (row, token), (document,) and (step,)."""
        order = np.argsort(documents, kind="stable")
        top = np.stack([order[: self.shape.top], order[::-1][: self.shape.top]])
        if "token_scores" in self._arrays:
            self._arrays["token_scores"][query] = tokens.astype(self.shape.dtype)
        self._arrays["document_scores"][query] = documents.astype(self.shape.dtype)
        self._arrays["step_scores"][query] = steps.astype(self.shape.dtype)
        self._arrays["top_documents"][query] = top

    def largest(self, query: int) -> float:
        """The largest |document score| of a query that is written."""
        return float(np.abs(self._arrays["document_scores"][query]).max(initial=0.0))

    def sync(self) -> None:
        """Flush everything written so far to disk."""
        sync_tree(self.attribution / "scores.zarr")

    def complete(self, run_id: str, config_hash: str, facts: dict[str, Any]) -> None:
        """Flush everything to disk, then write the completion record."""
        import zarr

        group = zarr.open_group(self.attribution / "scores.zarr", mode="a")
        group.attrs.update(
            format_version=FORMAT_VERSION,
            run_id=run_id,
            config_hash=config_hash,
            sign_convention=SIGN_CONVENTION,
        )
        sync_tree(self.attribution)
        arrays = {
            name: {"shape": list(array.shape), "dtype": str(array.dtype)}
            for name, array in self._arrays.items()
        }
        record = {"format_version": FORMAT_VERSION, "arrays": arrays, **facts}
        # Logs of the replay are removed on completion, so only tables have digests.
        files = digests_of(self.attribution.glob("*.parquet"))
        write_record(self.attribution / "complete.json", {**record, FILES: files}, indent=1)


def _layout(shape: ScoreShape) -> dict[str, tuple[Any, ...]]:
    """Shape, dtype and chunks of each array."""
    s, size = shape, np.dtype(shape.dtype).itemsize
    line = (1, rows_per_chunk(size))
    layout: dict[str, tuple[Any, ...]] = {
        "document_scores": ((s.queries, s.documents), s.dtype, line),
        "step_scores": ((s.queries, s.steps), s.dtype, line),
        "top_documents": ((s.queries, 2, s.top), "int64", (1, 2, s.top)),
    }
    if s.granularity == "token":
        rows = rows_per_chunk(s.tokens * size)
        layout["token_scores"] = (
            (s.queries, s.rows, s.tokens),
            s.dtype,
            (1, rows, s.tokens),
        )
    return layout


class ScoreReader:
    """Reads a complete attribution; arrays are read in parts."""

    def __init__(self, attribution: Path) -> None:
        """Open an attribution's scores.

        Raises:
            UsageError: if it is not complete, or has an unknown format version.
        """
        self.attribution = attribution
        self.store = attribution / "scores.zarr"
        self.record = read_completion(attribution)
        if self.record is None:
            raise UsageError(
                f"{attribution} is not complete: its replay has not finished; "
                "wait for it, or start another with: magic attribute"
            )
        self._arrays: dict[str, Any] = {}

    @property
    def has_tokens(self) -> bool:
        """Whether token scores were stored."""
        return self.record is not None and "token_scores" in self.record["arrays"]

    @property
    def queries(self) -> int:
        """Number of queries."""
        return int(self._array("document_scores").shape[0])

    def token_scores(self, query: int, rows: Any = slice(None)) -> Floats:
        """Token scores (row, token) of one query, for some rows."""
        return read(self._array("token_scores"), (query, rows), self.store)

    def document_scores(self, query: int) -> Floats:
        """Document scores (document,) of one query."""
        return read(self._array("document_scores"), query, self.store)

    def step_scores(self, query: int) -> Floats:
        """Sum of the token scores of each training step, (step,), for one query."""
        return read(self._array("step_scores"), query, self.store)

    def top_documents(self, query: int, harmful: bool = False) -> NDArray[np.int64]:
        """The most helpful, or most harmful, documents of one query, strongest first."""
        return read(self._array("top_documents"), (query, int(harmful)), self.store)

    def _array(self, name: str) -> Any:
        assert self.record is not None
        if name not in self.record["arrays"]:
            raise UsageError(
                f"{self.attribution} has no {name}: it was computed with granularity: document"
            )
        if name not in self._arrays:
            array = open_array(self.store, name)
            promised = self.record["arrays"][name]
            if [list(array.shape), str(array.dtype)] != [promised["shape"], promised["dtype"]]:
                raise RunError(f"{self.store / name} differs from its completion record")
            self._arrays[name] = array
        return self._arrays[name]


def read_completion(attribution: Path) -> dict[str, Any] | None:
    """The completion record; None if there is none yet.

    Raises:
        UsageError: if it is damaged or has an unknown format version.
    """
    path = attribution / "complete.json"
    try:
        record = read_record(path)
        if record is None:
            return None
        version = record["format_version"]
        for array in record["arrays"].values():
            array["shape"], array["dtype"]
    except (ChangedError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} is damaged; restore it from a backup") from None
    if version != FORMAT_VERSION:
        raise UsageError(
            f"{path} has format version {version}, this magic reads {FORMAT_VERSION}; "
            "use the version of magic that wrote it"
        )
    return record


def list_attributions(attributions: Path) -> list[Path]:
    """Folders of the complete attributions, oldest first."""
    if not attributions.is_dir():
        return []
    folders = sorted(f for f in attributions.iterdir() if not f.name.startswith("."))
    return [folder for folder in folders if (folder / "complete.json").exists()]


def next_attribution_id(attributions: Path, promised: Iterable[str] = ()) -> str:
    """The next free id.

    Args:
        attributions: the folder with all attributions, complete or not.
        promised: ids that queued jobs will use.
    """
    names = list(promised)
    if attributions.is_dir():
        names += [f.name.lstrip(".") for f in attributions.iterdir()]
    taken = [int(n[1:5]) for n in names if n[:1] == "a" and n[1:5].isdigit()]
    return f"a{max(taken, default=0) + 1:04d}"


def find_attribution(attributions: Path, attribution: str | None = None) -> Path:
    """The folder of a complete attribution, by default of the latest.

    Raises:
        UsageError: if there is none.
    """
    complete = list_attributions(attributions)
    if not complete:
        raise UsageError(
            f"{attributions.parent} has no complete attribution; attribute a query with: "
            f'magic attribute {attributions.parent.name} --text "…"'
        )
    if attribution is None:
        return complete[-1]
    for folder in complete:
        if folder.name == attribution:
            return folder
    raise UsageError(
        f"no complete attribution {attribution!r} in {attributions.parent}; "
        f"there are {', '.join(folder.name for folder in complete)}"
    )

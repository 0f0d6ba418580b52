"""Open a data set (a file, a saved folder or a hub data set) and select slices of its splits."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.data.files import FORMATS, READ_ERRORS, is_data_file, read_file
from engine.runs.config import SourceConfig
from engine.runs.errors import UsageError

if TYPE_CHECKING:
    import datasets


class Split(NamedTuple):
    """A split of a data set; slices are read on demand."""

    source_rows: NDArray[np.int64]
    read: Callable[[int, int], pa.Table]


def open_splits(source: SourceConfig, where: str) -> dict[str, Split]:
    """Open the data set of a source; a local path is one that exists or looks like a file.

    Args:
        source: what to open.
        where: the config key of the source, for messages.

    Raises:
        UsageError: if there is no such data set, or it cannot be read.
    """
    path = Path(source.path).expanduser()
    if not is_local(source.path):
        return _open_hub(source, where)
    if not path.exists():
        raise UsageError(
            f"{where}.path: no file or folder at {source.path!r}; relative paths start from the "
            "current folder."
        )
    if source.subset is not None:
        raise UsageError(
            f"{where}.subset: only data sets of the hub have subsets, and {source.path!r} is "
            "local; remove the subset."
        )
    return _open_folder(path, where) if path.is_dir() else _open_file(path, source, where)


def is_local(path: str) -> bool:
    """Whether a path is local, existing or not, rather than a hub id."""
    return Path(path).expanduser().exists() or _looks_local(path)


def _looks_local(path: str) -> bool:
    return path.startswith(("/", "./", "../", "~")) or is_data_file(path)


def _open_file(path: Path, source: SourceConfig, where: str) -> dict[str, Split]:
    if not is_data_file(path.name):
        raise UsageError(
            f"{where}.path: {source.path!r} has an unknown format; give a file that ends in "
            f"{FORMATS}, or a folder written by save_to_disk."
        )
    try:
        columns, source_rows = read_file(path, source.columns)
    except READ_ERRORS as error:
        raise UsageError(
            f"{where}.path: {source.path!r} cannot be read: {_first_line(error)}; "
            "repair the file or give another."
        ) from error
    return {"train": Split(source_rows, lambda start, stop: columns[start:stop])}


def _open_folder(path: Path, where: str) -> dict[str, Split]:
    import datasets

    try:
        with _no_progress_bars():
            saved = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise UsageError(
            f"{where}.path: {str(path)!r} is a folder, but not one written by save_to_disk of "
            "datasets; give such a folder or a data file."
        ) from None
    except (*READ_ERRORS, KeyError) as error:
        raise UsageError(
            f"{where}.path: the data set saved in {str(path)!r} cannot be read: "
            f"{_first_line(error)}; save it again."
        ) from error
    if isinstance(saved, datasets.DatasetDict):
        return {str(name): _split_of(part) for name, part in saved.items()}
    # A data set saved alone may have a split name, possibly with a slice.
    own_name = str(saved.split or "train").split("[")[0]
    return {name: _split_of(saved) for name in dict.fromkeys((own_name, "train"))}


def _open_hub(source: SourceConfig, where: str) -> dict[str, Split]:
    import datasets

    # Network access and third-party loaders can raise anything.
    try:
        with _no_progress_bars():
            loaded = datasets.load_dataset(source.path, source.subset)
    except Exception as error:
        generic = isinstance(error, datasets.exceptions.DatasetGenerationError)
        cause = error.__cause__ if generic and error.__cause__ else error
        raise UsageError(
            f"{where}.path: {source.path!r} is not a local path and could not be loaded from the "
            f"hub: {_first_line(cause)}; check the id, the subset and the network, or give a local "
            "file."
        ) from error
    return {str(name): _split_of(part) for name, part in loaded.items()}


def _split_of(part: "datasets.Dataset") -> Split:
    arrow = part.with_format("arrow")
    return Split(np.arange(len(part), dtype=np.int64), lambda start, stop: arrow[start:stop])


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    import datasets
    import huggingface_hub.utils as hub

    switches: tuple[Any, ...] = (datasets, hub)
    enabled = [switch for switch in switches if not switch.are_progress_bars_disabled()]
    for switch in enabled:
        switch.disable_progress_bars()
    try:
        yield
    finally:
        for switch in enabled:
            switch.enable_progress_bars()


def select(splits: dict[str, Split], spec: str, where: str) -> tuple[pa.Table, NDArray[np.int64]]:
    """The rows of a split specification, and the number of each in its split.

    Args:
        splits: the splits of the data set.
        spec: split names with slices, in the syntax of ``datasets``: ``train``,
            ``train[:10%]+test[5:20]``.
        where: the config key of the source, for messages.

    Raises:
        UsageError: if the specification is malformed, names an unknown split or selects no row.
    """
    lengths = {name: len(split.source_rows) for name, split in splits.items()}
    parts = [(splits[name], start, stop) for name, start, stop in _ranges(lengths, spec, where)]
    source_rows = np.concatenate([split.source_rows[start:stop] for split, start, stop in parts])
    if len(source_rows) == 0:
        sizes = ", ".join(f"{name} has {length} rows" for name, length in lengths.items())
        raise UsageError(
            f"{where}.split: {spec!r} selects no document ({sizes}); give a split with rows."
        )
    tables = [split.read(start, stop) for split, start, stop in parts]
    try:
        columns = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UsageError(
            f"{where}.split: the parts of {spec!r} differ in their columns ({_first_line(error)}); "
            "give one of them."
        ) from None
    return columns.replace_schema_metadata(None), source_rows


def _ranges(lengths: dict[str, int], spec: str, where: str) -> list[tuple[str, int, int]]:
    """The name, first row and end of each part of a split specification."""
    from datasets import ReadInstruction

    try:
        instruction = ReadInstruction.from_spec(spec)
    except ValueError as error:
        raise UsageError(
            f"{where}.split: {spec!r} is not a split ({_first_line(error)}); write for example "
            "train, train[:100] or train[10%:20%]."
        ) from None
    try:
        ranges = instruction.to_absolute(lengths)
    except ValueError as error:
        raise UsageError(
            f"{where}.split: {spec!r} does not match the data set: {_first_line(error)}."
        ) from None
    return [(part.splitname, part.from_, part.to) for part in ranges]


def listed(names: Iterable[str]) -> str:
    """Names in quotes, for a message."""
    return ", ".join(map(repr, names))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

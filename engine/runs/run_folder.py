"""The folder of a run and the paths in it."""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.runs.atomic import write_atomically
from engine.runs.checksummed import (
    FILES,
    digest_of,
    digests_of,
    is_intact,
    read_record,
    sealed,
    write_record,
)
from engine.runs.errors import RunError, UsageError
from engine.runs.journal import read_journal
from engine.runs.manifest import read_manifest
from engine.runs.safe_open import open_regular, read_file

if TYPE_CHECKING:
    from engine.runs.config import RunConfig

# YAML and the config's models are imported where they are used: loading them takes longer than
# listing the runs.

FORMAT_VERSION = 1
ID = r"[0-9]{8}T[0-9]{6}-[0-9a-f]{6,8}"
_RECORDED = re.compile(rb"^  run_id: '?(" + ID.encode() + rb")'?$", re.MULTILINE)
_RECORD_BYTES = 1000
"""The record that names the run is at the beginning of its config."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run; nothing is read at construction."""

    path: Path

    @property
    def id(self) -> str:
        """The run's id: the folder's name, or the recorded id if the folder was renamed.

        A renamed copy in the same folder as its original has its folder's name as its id.
        """
        name = self.path.name
        if re.fullmatch(ID, name):
            return name
        recorded = _recorded_id(self.config_file)
        is_copy = recorded is None or (self.path.parent / recorded).exists()
        return name if recorded is None or is_copy else recorded

    @property
    def config_file(self) -> Path:
        """The resolved config."""
        return self.path / "run_config.yaml"

    @property
    def events_file(self) -> Path:
        """The journal of events."""
        return self.path / "events.jsonl"

    @property
    def trajectory(self) -> Path:
        """Checkpoints and gradients."""
        return self.path / "trajectory"

    @property
    def documents_file(self) -> Path:
        """The training documents."""
        return self.path / "documents.parquet"

    @property
    def rows_store(self) -> Path:
        """The packed model inputs."""
        return self.path / "rows.zarr"

    @property
    def attributions(self) -> Path:
        """One folder per attribution."""
        return self.path / "attributions"

    @property
    def retrainings_file(self) -> Path:
        """The cache of retrainings: a journal of the models trained without some documents."""
        return self.path / "validation" / "retrainings.jsonl"

    @property
    def cluster_jobs(self) -> Path:
        """Task pools shared with cluster jobs that retrain: one folder for each fan-out."""
        return self.path / "validation" / "jobs"

    @property
    def metasmoothness_file(self) -> Path:
        """The metasmoothness of the training, measured from three trainings."""
        return self.path / "validation" / "metasmoothness.json"

    @property
    def prepared_file(self) -> Path:
        """Written once documents, rows and plan are stored."""
        return self.path / "prepared.json"

    @property
    def findings_file(self) -> Path:
        """Problems of a finite training; the file is missing if there are none."""
        return self.path / "findings.json"

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer, in the format of the tokenizers library."""
        return self.path / "tokenizer.json"

    @property
    def logs(self) -> Path:
        """Output of the libraries."""
        return self.path / "logs"

    def record(self) -> dict[str, Any]:
        """The block about the run itself in ``run_config.yaml``; checks the format version."""
        return self._read_config_file()[0]

    def config(self) -> "RunConfig":
        """The resolved config.

        Raises:
            UsageError: if the folder is of an unknown format version or the config was changed.
        """
        from engine.runs.read_config import RECORD_KEY, stored_config

        record, values = self._read_config_file()
        config = stored_config(values, self.config_file)
        # Of the values as stored: a key added to magic later must not make older runs unreadable.
        stored = {key: value for key, value in values.items() if key != RECORD_KEY}
        if digest_of(stored) != record.get("config_hash"):
            raise _changed(self.config_file)
        return config

    def config_fields(self) -> dict[str, Any]:
        """The config's values by dotted name, such as ``training.optimizer.name``.

        Raises:
            UsageError: if the config cannot be read.
        """
        from engine.runs.config import as_plain

        fields: dict[str, Any] = {}

        def flatten(values: dict[str, Any], prefix: str) -> None:
            for key, value in values.items():
                if isinstance(value, dict):
                    flatten(value, f"{prefix}{key}.")
                else:
                    fields[prefix + key] = value

        flatten(as_plain(self.config()), "")
        return fields

    def write_config(self, config: "RunConfig", run_id: str, created: float) -> None:
        """Write the resolved config with the record that names the run."""
        import yaml

        from engine.runs.config import as_plain
        from engine.runs.read_config import RECORD_KEY

        record = {
            "format_version": FORMAT_VERSION,
            "run_id": run_id,
            "config_hash": config.digest(),
            "created": created,
        }
        # The config has its own hash.
        record = sealed(record)
        text = yaml.safe_dump({RECORD_KEY: record, **as_plain(config)}, sort_keys=False)
        write_atomically(self.config_file, text.encode())

    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        return read_journal(self.events_file)

    def write_prepared(self, facts: dict[str, Any]) -> None:
        """Record that documents, rows and plan are stored, with further facts that jobs need."""
        files = digests_of((self.documents_file, self.tokenizer_file))
        write_record(self.prepared_file, {**facts, FILES: files})

    def prepared(self) -> dict[str, Any]:
        """Facts beside the config that jobs need, such as ``checkpointing`` and ``device``.

        Raises:
            RunError: if the run was never prepared, or the file is damaged.
        """
        facts = read_record(self.prepared_file)
        if facts is None:
            raise RunError(
                f"run {self.id} was not prepared; see the reason with: magic status {self.id}"
            )
        return facts

    def has_trajectory(self) -> bool:
        """Whether training is complete and the trajectory exists."""
        manifest = read_manifest(self.trajectory)
        return manifest is not None and manifest.complete

    @contextlib.contextmanager
    def lock(self, patience: float = 1.0) -> Iterator[None]:
        """Lock the run for one writer; waits up to ``patience`` seconds for the lock.

        Raises:
            RunError: if another process holds it.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        deadline = time.monotonic() + patience
        try:
            while not try_lock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    raise RunError(
                        f"run {self.id} is in use by another process; wait until it ends"
                    )
                time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)

    def _read_config_file(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The block about the run, and all values of the file."""
        import yaml

        from engine.runs.read_config import RECORD_KEY

        try:
            values = dict(read_yaml(self.config_file))
            record = dict(values[RECORD_KEY])
            version, intact = record["format_version"], is_intact(record)
        except FileNotFoundError:
            raise UsageError(
                f"{self.path} is not a run folder: it has no run_config.yaml"
            ) from None
        except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
            raise UsageError(f"{self.config_file} is damaged; restore it from a backup") from None
        if version != FORMAT_VERSION:
            raise UsageError(
                f"{self.path} has format version {version}, this magic reads {FORMAT_VERSION}; "
                "use the version of magic that wrote it"
            )
        if not intact:
            raise _changed(self.config_file)
        return record, values


def new_run_id() -> str:
    """A new id, which sorts by time of creation to the millisecond."""
    now = time.time()
    second = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    return f"{second}-{int(now % 1 * 1000):03x}{os.urandom(3).hex()[:5]}"


def _recorded_id(config_file: Path) -> str | None:
    """The id in a run's record; reads only the beginning of the file."""
    with contextlib.suppress(OSError, RunError), open_regular(config_file) as file:
        match = _RECORDED.search(file.read(_RECORD_BYTES))
        return None if match is None else match[1].decode()
    return None


def _changed(config_file: Path) -> UsageError:
    return UsageError(
        f"{config_file} was changed after the run was created, so its scores belong to another "
        "config: restore the file, or run the new config as a new run"
    )


def try_lock(descriptor: int, kind: int) -> bool:
    """Take a lock if it is free; returns whether it was taken."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_yaml(path: Path) -> Any:
    """yaml.safe_load, ten times as fast if libyaml is available."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(read_file(path).decode("utf-8"), Loader=loader)

"""Which attributions a run has, complete or not, and the queries of each."""

import contextlib
from pathlib import Path
from typing import Any

from engine.runs.checksummed import read_record, verify
from engine.runs.errors import MagicError
from engine.runs.run_folder import RunFolder
from engine.runs.safe_text import one_line
from engine.runs.states import RunState, View

_TEXTS = 3
"""Queries of an attribution whose first words are given."""
_WORDS = 60
"""Characters of these."""


def attribution_list(run: View) -> list[dict[str, Any]]:
    """The attributions of a run, the earliest first, as JSON-ready values.

    Each has its ``attribution`` (id), ``job`` (number), ``state``, ``reason``, the number of
    ``queries`` (null until they are read), the first words of some (``texts``), the ``source`` of
    query data that is not read yet, ``cut`` (how many query documents are cut, and by how many
    ``tokens`` in all), and its ``validations``: their jobs, states and reasons.
    """
    folder = RunFolder(Path(run["path"]))
    made = [job for job in run["jobs"] if job["work"] != "validate" and job["attribution"]]
    jobs = {job["attribution"]: job for job in made}
    complete = [f.parent.name for f in sorted(folder.attributions.glob("[!.]*/complete.json"))]
    return [_facts(folder, run, name, jobs.get(name)) for name in sorted({*jobs, *complete})]


def _facts(folder: RunFolder, run: View, name: str, job: View | None) -> dict[str, Any]:
    checks = [j for j in run["jobs"] if j["work"] == "validate" and j["attribution"] == name]
    return {
        "attribution": name,
        "job": None if job is None else job["number"],
        "state": str(RunState.SUCCEEDED) if job is None else job["state"],
        "reason": None if job is None else job["reason"],
        **_queries(folder, name, job),
        "validations": [
            {"job": j["number"], "state": j["state"], "reason": j["reason"]} for j in checks
        ],
    }


def _queries(folder: RunFolder, name: str, job: View | None) -> dict[str, Any]:
    """What it asks: from its tables, or from the request while there are none."""
    found: dict[str, Any] = {"queries": None, "texts": [], "source": None, "cut": None}
    for file in (
        folder.attributions / name / "queries.parquet",
        folder.attributions / f".{name}.new" / "queries.parquet",
        folder.attributions / f".{name}.new" / "asked.parquet",
    ):
        # Damaged tables are for whatever reads the scores themselves to tell.
        if file.exists():
            with contextlib.suppress(Exception):
                return found | _from_table(file)
    if job is not None:
        with contextlib.suppress(MagicError, OSError, ValueError, KeyError, TypeError):
            return found | _from_request(folder, int(job["number"]))
    return found


def _from_table(file: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from engine.scores.texts import as_read

    verify(file)
    with pq.ParquetFile(file) as table:
        names = table.schema_arrow.names
        columns = ["text"] if "text" in names else ["prompt", "completion"]
        queries = 1 + max(table.read(["measurement"]).column(0).to_pylist())
        known = ["cut_tokens"] if "cut_tokens" in names else []
        lost = [row["cut_tokens"] for row in table.read(known).to_pylist() if row.get("cut_tokens")]
        ends = ["text_end"] if "text_end" in names else []
        first = next(table.iter_batches(batch_size=_TEXTS, columns=[*columns, *ends])).to_pylist()
    words = [
        " → ".join(as_read([str(row[name] or "") for name in columns], row.get("text_end")))
        for row in first
    ]
    cut = {"queries": len(lost), "tokens": sum(lost)}
    return {"queries": queries, "texts": [_first_words(text) for text in words], "cut": cut}


def _from_request(folder: RunFolder, job: int) -> dict[str, Any]:
    request = read_record(folder.path / "jobs" / f"{job:04d}" / "request.json") or {}
    asked = request["asked"]
    if asked is None:
        queries = folder.config().queries
        return {} if queries is None else {"source": queries.path}
    if asked["texts"] is None:
        return {"source": asked["queries"]["path"]}
    count = len(asked["texts"]) if asked["reduction"] == "none" else 1
    return {"queries": count, "texts": [_first_words(text) for text in asked["texts"][:_TEXTS]]}


def _first_words(text: str) -> str:
    line = one_line(text[: 4 * _WORDS])
    return line if len(line) <= _WORDS else line[: _WORDS - 1] + "…"

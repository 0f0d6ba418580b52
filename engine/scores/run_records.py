"""What a run recorded beside its scores, as JSON-ready values; loads neither numpy nor torch.

These readers serve listings: a damaged record is skipped, and reported by the command that needs
it. :func:`findings_of` is the exception.
"""

import contextlib
from pathlib import Path
from typing import Any

from engine.runs.checksummed import read_record, verify
from engine.runs.errors import MagicError, RunError
from engine.runs.inputs import short_form
from engine.runs.run_folder import RunFolder
from engine.runs.safe_text import one_line
from engine.runs.states import RunState, View

_TEXTS = 3
"""Queries of an attribution whose first words are listed."""
_WORDS = 60
"""Characters of these."""


def findings_of(run: RunFolder, record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Kind and sentence of each problem of a replay, then of the training.

    Args:
        run: the run.
        record: the completion record of the attribution.

    Raises:
        RunError: if a file is damaged.
    """
    of_training = (read_record(run.findings_file) or {}).get("findings", [])
    return tuple((f["kind"], f["message"]) for f in (*record.get("findings", ()), *of_training))


def largest_rounding(record: dict[str, Any]) -> float | None:
    """The largest estimated rounding error of a query's scores; None if there is no estimate."""
    return max((e for e in record.get("rounding") or () if e is not None), default=None)


def rounding_text(error: float | None) -> str:
    """The effect of rounding on scores in words; ``error`` is relative, None if all are 0."""
    if error is None:
        return "all scores are 0"
    if error >= 1:
        return "estimated to change the scores altogether"
    return f"estimated to change the scores by {error:.1e} of their size"


def warnings_view(run: Path, attribution: str | None = None) -> dict[str, Any]:
    """``warnings``, and ``rounding`` by query, of a run and one of its attributions.

    Either key is missing if there is nothing to report.

    Args:
        run: the run's folder.
        attribution: an attribution; by default the latest.
    """
    folder, record = RunFolder(run), dict[str, Any]()
    if next(run.glob("attributions/[!.]*/complete.json"), None) is not None:
        record = _completion(folder, attribution)
    view: dict[str, Any] = {"rounding": record["rounding"]} if record.get("rounding") else {}
    with contextlib.suppress(MagicError, OSError):
        if sentences := [sentence for _, sentence in findings_of(folder, record)]:
            view["warnings"] = sentences
    return view


def _completion(run: RunFolder, attribution: str | None) -> dict[str, Any]:
    # Loads numpy, which only a run with scores needs.
    from engine.runs.score_store import find_attribution, read_completion

    with contextlib.suppress(MagicError, OSError):
        return read_completion(find_attribution(run.attributions, attribution)) or {}
    return {}


def made_from_of(run: Path) -> dict[str, Any] | None:
    """Short digests of the weights, data, files and code of the run in a folder.

    None before the run is prepared, or if it was prepared by a version that recorded none.
    """
    with contextlib.suppress(OSError, RunError, KeyError, TypeError, AttributeError):
        return short_form(RunFolder(run).prepared()["fingerprint"])
    return None


def unused_data(run: Path) -> dict[str, Any]:
    """The data that the run in a folder does not train on; empty if it trains on all of it.

    ``left_out`` counts the documents with nothing to predict by reason, ``left_out_first`` names
    the first few, ``cut`` counts the documents longer than the model reads, and ``cut_tokens`` the
    tokens that they lose.
    """
    try:
        facts = dict(RunFolder(run).prepared().get("data") or {})
    except (RunError, OSError, TypeError, ValueError):
        return {}
    return facts if facts.get("left_out") or facts.get("cut") else {}


def derivative_of(run: Path) -> dict[str, Any] | None:
    """The comparison of derivatives with finite differences, made when the run was prepared."""
    with contextlib.suppress(RunError, OSError):
        comparison: dict[str, Any] | None = RunFolder(run).prepared().get("derivative")
        return comparison
    return None


def attribution_list(run: View) -> list[dict[str, Any]]:
    """The attributions of a run, complete or not, the earliest first.

    Each has ``attribution`` (its id), ``job`` (number), ``state``, ``reason``, ``queries`` (their
    number; null until they are read), ``texts`` (the first words of some), ``source`` (query data
    that is not read yet), ``cut`` (how many query documents are cut, and by how many ``tokens`` in
    all) and ``validations`` (jobs, states and reasons).
    """
    folder = RunFolder(Path(run["path"]))
    attributing = [job for job in run["jobs"] if job["work"] != "validate" and job["attribution"]]
    jobs = {job["attribution"]: job for job in attributing}
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
    """The queries from the attribution's tables, or from the request before those are written."""
    unknown: dict[str, Any] = {"queries": None, "texts": [], "source": None, "cut": None}
    for file in (
        folder.attributions / name / "queries.parquet",
        folder.attributions / f".{name}.new" / "queries.parquet",
        folder.attributions / f".{name}.new" / "stored_queries.parquet",
    ):
        if file.exists():
            with contextlib.suppress(Exception):
                return unknown | _from_table(file)
    if job is not None:
        with contextlib.suppress(MagicError, OSError, ValueError, KeyError, TypeError):
            return unknown | _from_request(folder, int(job["number"]))
    return unknown


def _from_table(file: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from engine.scores.texts import as_read

    verify(file)
    with pq.ParquetFile(file) as table:
        names = table.schema_arrow.names
        columns = ["text"] if "text" in names else ["prompt", "completion"]
        queries = 1 + max(table.read(["measurement"]).column(0).to_pylist())
        counts = ["cut_tokens"] if "cut_tokens" in names else []
        rows = table.read(counts).to_pylist()
        cut_tokens = [row["cut_tokens"] for row in rows if row.get("cut_tokens")]
        ends = ["text_end"] if "text_end" in names else []
        first = next(table.iter_batches(batch_size=_TEXTS, columns=[*columns, *ends])).to_pylist()
    words = [
        " → ".join(as_read([str(row[name] or "") for name in columns], row.get("text_end")))
        for row in first
    ]
    cut = {"queries": len(cut_tokens), "tokens": sum(cut_tokens)}
    return {"queries": queries, "texts": [_first_words(text) for text in words], "cut": cut}


def _from_request(folder: RunFolder, job: int) -> dict[str, Any]:
    record = read_record(folder.path / "jobs" / f"{job:04d}" / "request.json") or {}
    request = record["attribution_request"]
    if request is None:
        queries = folder.config().queries
        return {} if queries is None else {"source": queries.path}
    if request["texts"] is None:
        return {"source": request["queries"]["path"]}
    count = len(request["texts"]) if request["reduction"] == "none" else 1
    return {"queries": count, "texts": [_first_words(text) for text in request["texts"][:_TEXTS]]}


def _first_words(text: str) -> str:
    line = one_line(text[: 4 * _WORDS])
    return line if len(line) <= _WORDS else line[: _WORDS - 1] + "…"

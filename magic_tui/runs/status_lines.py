"""``magic status`` as lines of text: one run in detail, or the engine and its unfinished runs."""

import time
from collections.abc import Iterator

from rich.text import Text

from engine.runs.safe_text import one_line
from engine.runs.states import View
from engine.scores.run_records import rounding_text
from magic_tui.client.engine import is_finished, standing
from magic_tui.client.engine_process import engine_log
from magic_tui.runs.run_lines import queries_text, run_age, run_lines, steps_text
from magic_tui.text.cells import wrap
from magic_tui.text.numbers import (
    age_text,
    bytes_text,
    count_text,
    counted,
    derivative_text,
)
from magic_tui.text.phase_text import phase_facts
from magic_tui.text.states import MEANINGS, sign

Fact = tuple[str, str]

_NAME_WIDTH = 12
_DIGEST_DIGITS = 12
_MOST_LINES = 4
_MOST_LISTED = 6
"""At most so many attributions, and so many jobs, are listed."""
_WORDS = 26
"""Width of a query's first words, in cells."""
_LIST_WIDTH = 80
"""At this width a run takes two lines; its phase is on a third."""


def run_detail(run: View, width: int) -> Iterator[Text]:
    """State, phase, jobs, data, provenance and sizes of a run."""
    head = sign(standing(run)[0]).append(one_line(run["id"]), "bold")
    head.append(f"  {one_line(run['name'])}").truncate(width, overflow="ellipsis")
    yield head
    yield from _facts(_about_run(run), width)


def engine_lines(engine: View, width: int) -> Iterator[Text]:
    """The engine and its machine."""
    yield from _facts(_about_engine(engine), width)


def status_lines(status: View, width: int) -> Iterator[Text]:
    """The engine, and the unfinished runs with their phases."""
    yield from engine_lines(status["engine"], width)
    yield Text()
    if not status["runs"]:
        yield Text("no run is queued or running", "dim")
    for run in status["runs"]:
        yield from run_lines([run], min(width, _LIST_WIDTH))
        if run["phase"] is not None:
            for line in wrap(" · ".join(phase_facts(run["phase"])), width - 2, _MOST_LINES):
                yield Text("  " + line)


def _about_run(run: View) -> Iterator[Fact]:
    yield "state", _state(run)
    if run["phase"] is not None and not is_finished(run):
        yield "phase", " · ".join(phase_facts(run["phase"]))
    job = run["job"]
    if job is not None:
        yield "job", _job(job, len(run["jobs"]))
    yield "model", one_line(run["model"])
    for line in run.get("code") or ():
        yield "runs code", one_line(line)
    if run.get("made_from"):
        yield "made from", _provenance(run["made_from"])
    yield "trained", f"{steps_text(run)} steps"
    if run["documents"] is not None:
        yield "documents", _documents(run)
    yield "trajectory", bytes_text(run["trajectory_bytes"])
    yield "scores", _scores(run)
    if run.get("verdict"):
        yield "trust", _trust(run["verdict"])
    if run.get("derivative"):
        yield "derivatives", derivative_text(run["derivative"])
    errors = [error for error in run.get("rounding") or () if error is not None]
    if errors:
        yield "rounding", rounding_text(max(errors))
    for sentence in run.get("warnings") or ():
        yield "warning", sentence
    if run["memory"] is not None:
        yield "memory", f"{bytes_text(run['memory'])} at most"
    yield "created", run_age(run)
    yield "folder", run["path"]
    yield from _attributions(run)
    jobs = run["jobs"]
    if len(jobs) > 1 or (jobs and jobs[0]["state"] != run["state"]):
        if len(jobs) > _MOST_LISTED:
            yield "jobs", f"{len(jobs)}, the last {_MOST_LISTED} are:"
        for other in jobs[-_MOST_LISTED:]:
            yield f"job {other['number']}", f"{_work(other)}: {other['state']}{_reason_text(other)}"


def _attributions(run: View) -> Iterator[Fact]:
    """Each attribution with its queries; the reason of a failure is listed with its job."""
    attributions = run.get("attribution_list") or []
    if len(attributions) > _MOST_LISTED:
        yield (
            "queries",
            f"{counted(len(attributions), 'attribution')}, the last {_MOST_LISTED} are:",
        )
    for each in attributions[-_MOST_LISTED:]:
        state = "" if each["state"] == "succeeded" else f"{each['state']}, "
        cut = each.get("cut") or {"queries": 0}
        lost = (
            f" · {cut['queries']} cut, {counted(cut['tokens'], 'token')}" if cut["queries"] else ""
        )
        yield each["attribution"], state + queries_text(each, _WORDS) + lost


def _documents(run: View) -> str:
    """How many documents are trained on, and which data is left out or cut."""
    parts = [count_text(run["documents"])]
    unused = run.get("data") or {}
    left_out = unused.get("left_out") or {}
    if left_out:
        reasons = ", ".join(f"{count_text(count)} {why}" for why, count in left_out.items())
        parts.append(f"left out: {reasons} ({unused['left_out_first']})")
    if unused.get("cut"):
        lost = counted(unused["cut_tokens"], "token")
        parts.append(f"{count_text(unused['cut'])} cut, {lost} lost")
    return " · ".join(parts)


def _provenance(made_from: View) -> str:
    """Digests of the run's inputs, and the versions of the libraries."""
    names = {"files": "config and tokenizer", "commit": "commit"}
    parts = [
        f"{names.get(name, name)} {str(made_from[name])[:_DIGEST_DIGITS]}"
        for name in ("weights", "data", "files", "commit", "code")
        if made_from.get(name)
    ]
    libraries = made_from["libraries"]
    versions = [f"{n} {libraries[n]}" for n in ("torch", "transformers") if n in libraries]
    return one_line(" · ".join((*parts, *versions)))


def _trust(verdict: View) -> str:
    text = f"{verdict['symbol']} {verdict['words']}"
    if verdict["symbol"] not in "!✗":
        return text
    return ": ".join(filter(None, (text, verdict["reason"], verdict["remedy"])))


def _scores(run: View) -> str:
    """Size of all scores, unfinished attributions included."""
    size, complete = bytes_text(run["scores_bytes"]), run["attributions"]
    if complete:
        return f"{size} in {counted(complete, 'attribution')}"
    return f"{size} so far, no attribution is complete" if run["scores_bytes"] else "none yet"


def _about_engine(engine: View) -> Iterator[Fact]:
    up = age_text(max(0.0, time.time() - engine["started"]))
    yield "engine", f"process {engine['pid']}, version {engine['version']}, up {up}"
    yield "runs", f"{engine['running']} running, {engine['queued']} queued"
    for device in engine["devices"]:
        yield device["id"], _device(device)
    yield "memory", _of(engine["memory_used"], engine["memory_total"])
    floor = bytes_text(engine["disk_floor"])
    yield "disk", f"{bytes_text(engine['disk_free'])} free; below {floor} new jobs wait"
    yield "socket", engine["socket"]
    yield "log", str(engine_log())


def _state(run: View) -> str:
    """State and reason of the run, or of its unfinished job."""
    state, reason = standing(run)
    job = run["job"]
    position = None if job is None else job["queue_position"]
    reason = reason or MEANINGS.get(state, "")
    if position:
        reason = f"{reason} ({counted(position, 'job')} before it)"
    return f"{state}: {reason}" if reason else state


def _job(job: View, jobs: int) -> str:
    parts = [f"{job['number']} of {jobs}: {_work(job)}"]
    if job["attempts"] > 1:
        parts.append(counted(job["attempts"], "attempt"))
    if job["devices"]:
        parts.append("on " + ", ".join(job["devices"]))
    return ", ".join(parts)


def _work(job: View) -> str:
    if job["work"] == "attribute":
        return f"attribution {job['attribution']}"
    if job["work"] == "validate":
        return f"validation of attribution {job['attribution']}"
    return (
        "training" if job["attribution"] is None else f"training, attribution {job['attribution']}"
    )


def _reason_text(job: View) -> str:
    return f", {job['reason']}" if job["reason"] else ""


def _device(device: View) -> str:
    name = one_line(device["name"])
    used = _of(device["memory_used"], device["memory_total"])
    run = f", run {device['run']}" if device["run"] else ""
    return f"{name}, {used}{run}"


def _of(used: float | None, total: float | None) -> str:
    return f"{bytes_text(used)} used of {bytes_text(total)}"


def _facts(facts: Iterator[Fact], width: int) -> Iterator[Text]:
    for name, value in facts:
        lines = wrap(one_line(value), width - _NAME_WIDTH, _MOST_LINES) or [""]
        for index, line in enumerate(lines):
            label = one_line(name) if index == 0 else ""
            yield Text().append(label.ljust(_NAME_WIDTH), "dim").append(line)

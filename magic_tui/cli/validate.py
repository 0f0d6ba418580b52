"""``magic validate``: retrain without some documents and compare with the predictions."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.runs.errors import UsageError
from magic_tui.cli.options import AsJson, Attribution, Detach, Run, RunsDir, Trust
from magic_tui.cli.output import narrate, print_json, reports_errors, stdout


@reports_errors
def validate(
    run: Run = None,
    attribution: Attribution = None,
    drop: Annotated[
        list[float] | None,
        typer.Option(metavar="SHARE", help="Share of the documents to leave out; repeatable."),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            metavar="N", help="Subsets of each share; existing ones are reused. 0: only report."
        ),
    ] = 20,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of the subsets.")] = 0,
    leave_one_out: Annotated[
        int, typer.Option(metavar="N", help="Also leave out N single documents.")
    ] = 0,
    drop_top: Annotated[
        list[int] | None,
        typer.Option(
            metavar="K",
            help="Also leave out the K most helpful documents of each query; repeatable.",
        ),
    ] = None,
    metasmoothness: Annotated[
        bool, typer.Option("--metasmoothness", help="Measure metasmoothness: 2 more retrainings.")
    ] = False,
    numerical_agreement: Annotated[
        bool,
        typer.Option("--numerical-agreement", help="Replay in other micro-batches, and compare."),
    ] = False,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Compare other methods on the same retrainings.")
    ] = False,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes that retrain in parallel.")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="slurm or local: retrain in jobs, submitted with submitit."
        ),
    ] = None,
    cluster_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A submitit option of the jobs, as in timeout_min=120."
        ),
    ] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Store the retrained models, for later queries.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="LDS", help="Exit 5 if the LDS of any requested share is lower."),
    ] = None,
    trust: Trust = False,
    detach: Detach = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Check an attribution: retrain without some documents, compare with the predictions.

    The LDS is the rank correlation of predicted and actual losses over random subsets of one
    share of the documents, as a mean over the queries: 1 is perfect. Retrainings are cached in
    the run: an interrupted validation continues, and later ones reuse the cache for any query.
    """
    from magic_tui.cli.foreign_code import accept_code
    from magic_tui.client.engine import connect

    indicators = metasmoothness or numerical_agreement or baselines
    if not (count or leave_one_out or drop_top or indicators):
        _report(_identify(run, attribution, runs_dir), threshold, drop or [], as_json)
        return
    shares = [0.05] if drop is None else drop
    request = {
        "drop": shares,
        "count": count,
        "seed": seed,
        "leave_one_out": leave_one_out,
        "drop_top": drop_top or [],
        "metasmoothness": metasmoothness,
        "numerical_agreement": numerical_agreement,
        "baselines": baselines,
        "jobs": jobs,
        "cluster": cluster,
        "cluster_options": _options(cluster_option or []),
        "keep_models": keep_models,
    }
    engine = connect(runs_dir)
    run_view = engine.find(run)
    accept_code(engine, run_view, trust)
    view = engine.validate(run_view["id"], attribution, _checked(request))
    job = view["jobs"][-1]
    if detach:
        _print_queued(view, job["attribution"], as_json)
        return
    from magic_tui.cli.work import finish

    facts = finish(engine, view, job["number"], after=view["events"] - 1)
    _report(facts, threshold, shares if count else drop or [], as_json)


def _identify(run: str | None, attribution: str | None, runs_dir: Path | None) -> dict[str, Any]:
    """The attribution to report without an engine."""
    from engine.runs.listing import find_run
    from engine.runs.paths import runs_folder
    from engine.runs.score_store import find_attribution

    folder = find_run(runs_folder(runs_dir), run)
    name = find_attribution(folder.attributions, attribution).name
    return {"run": folder.id, "path": str(folder.path), "attribution": name}


def _options(given: list[str]) -> dict[str, Any]:
    """Parse NAME=VALUE. A value that is JSON is parsed; any other is text."""
    options: dict[str, Any] = {}
    for option in given:
        name, equals, text = option.partition("=")
        if not (name and equals):
            raise UsageError(f"--cluster-option {option}: give NAME=VALUE, as in timeout_min=120")
        try:
            # Python's parser accepts NaN and Infinity, which are no JSON; they may be names.
            options[name] = json.loads(text, parse_constant=str)
        except ValueError:
            options[name] = text
    return options


def _checked(request: dict[str, Any]) -> dict[str, Any]:
    from engine.runs.request import read_validation

    read_validation(request)
    return request


def _print_queued(run: dict[str, Any], attribution: str, as_json: bool) -> None:
    if as_json:
        print_json({**run, "attribution": attribution})
        return
    typer.echo(run["id"])
    narrate(f"validation of {attribution}; follow it with: magic watch {run['id']}")


def _report(
    facts: dict[str, Any], threshold: float | None, shares: list[float], as_json: bool
) -> None:
    """Print the validation, and check the LDS of the given shares, or of all."""
    from engine.evaluation.trust import check_threshold, read_trust, validation_facts
    from engine.evaluation.validation import read_baselines
    from engine.evaluation.verdict import drop_kind
    from engine.runs.run_folder import RunFolder
    from engine.scores.attribution import open_attribution

    opened = open_attribution(RunFolder(Path(facts["path"])), facts["attribution"])
    trust, baselines = read_trust(opened), read_baselines(opened)
    report = {**facts, **validation_facts(trust, baselines), "threshold": threshold}
    if not as_json:
        from magic_tui.trust.trust_lines import report_lines

        console = stdout()
        for line in report_lines(trust, baselines, console.width):
            console.print(line)
    check_threshold(report, threshold, [drop_kind(share) for share in shares])
    if as_json:
        print_json(report)

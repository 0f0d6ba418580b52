"""``magic validate``: leave documents out, train again, and compare with what was predicted."""

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
        typer.Option(metavar="SHARE", help="Share of the documents left out; may be repeated."),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            metavar="N", help="Subsets of each share; a larger N adds to them, 0 shows them."
        ),
    ] = 20,
    seed: Annotated[int, typer.Option(metavar="S", help="Draws the subsets.")] = 0,
    leave_one_out: Annotated[
        int, typer.Option(metavar="N", help="Also leave out N single documents.")
    ] = 0,
    drop_top: Annotated[
        list[int] | None,
        typer.Option(
            metavar="K", help="Also leave out the K that help most, query by query; repeatable."
        ),
    ] = None,
    smoothness: Annotated[
        bool, typer.Option("--smoothness", help="Measure how smoothly training answers: 2 more.")
    ] = False,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="Replay again with other rounding, and compare.")
    ] = False,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Judge other methods by the same retrainings.")
    ] = False,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes that retrain.")] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="slurm or local: submit them as jobs, with submitit."),
    ] = None,
    cluster_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Of such a job, by submitit's names: timeout_min=120."
        ),
    ] = None,
    keep_models: Annotated[
        bool, typer.Option("--keep-models", help="Keep the models, for queries asked later.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="LDS", help="Exit 5 if the LDS of any share asked for is lower."),
    ] = None,
    trust: Trust = False,
    detach: Detach = False,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Check an attribution: retrain without some documents, compare with the predictions.

    The LDS is the rank correlation of predicted and actual losses over random subsets of one
    share of the documents, on average over the queries: 1 is perfect. Retrainings are kept in
    the run's bank: what is there is not done again, whatever was interrupted, and one bank serves
    every query.
    """
    from magic_tui.cli.foreign_code import accept_code
    from magic_tui.client.engine import connect

    if not (count or leave_one_out or drop_top or smoothness or agreement or baselines):
        _show(_there(run, attribution, runs_dir), threshold, drop or [], as_json)
        return
    shares = [0.05] if drop is None else drop
    asked = {
        "drop": shares,
        "count": count,
        "seed": seed,
        "leave_one_out": leave_one_out,
        "drop_top": drop_top or [],
        "smoothness": smoothness,
        "agreement": agreement,
        "baselines": baselines,
        "jobs": jobs,
        "cluster": cluster,
        "cluster_options": _options(cluster_option or []),
        "keep_models": keep_models,
    }
    engine = connect(runs_dir)
    found = engine.find(run)
    accept_code(engine, found, trust)
    view = engine.validate(found["id"], attribution, _checked(asked))
    job = view["jobs"][-1]
    if detach:
        _print_queued(view, job["attribution"], as_json)
        return
    from magic_tui.cli.work import finish

    facts = finish(engine, view, job["number"], after=view["events"] - 1)
    _show(facts, threshold, shares if count else drop or [], as_json)


def _there(run: str | None, attribution: str | None, runs_dir: Path | None) -> dict[str, Any]:
    """The attribution to be shown as it is."""
    from engine.runs.listing import find_run
    from engine.runs.naming import runs_folder
    from engine.runs.score_store import find_attribution

    found = find_run(runs_folder(runs_dir), run)
    name = find_attribution(found.attributions, attribution).name
    return {"run": found.id, "path": str(found.path), "attribution": name}


def _options(given: list[str]) -> dict[str, Any]:
    """Numbers, true, false and lists are written as in JSON; all else is text."""
    found: dict[str, Any] = {}
    for option in given:
        name, equals, text = option.partition("=")
        if not (name and equals):
            raise UsageError(f"--cluster-option {option}: give NAME=VALUE, as in timeout_min=120")
        try:
            # JSON has no NaN or Infinity: these are names too.
            found[name] = json.loads(text, parse_constant=str)
        except ValueError:
            found[name] = text
    return found


def _checked(asked: dict[str, Any]) -> dict[str, Any]:
    from engine.runs.request import read_validation

    read_validation(asked)
    return asked


def _print_queued(run: dict[str, Any], attribution: str, as_json: bool) -> None:
    if as_json:
        print_json({**run, "attribution": attribution})
        return
    typer.echo(run["id"])
    narrate(f"validation of {attribution}; follow it with: magic watch {run['id']}")


def _show(
    facts: dict[str, Any], threshold: float | None, shares: list[float], as_json: bool
) -> None:
    """Print what was found, and check the LDS of these shares, or of all there are."""
    from engine.evaluation.baseline_predictions import read_baselines
    from engine.evaluation.lds_index import drop_kind
    from engine.evaluation.trust import read_trust
    from engine.evaluation.validated import check_threshold, validated_facts
    from engine.runs.run_folder import RunFolder
    from engine.scores.attribution import open_attribution

    opened = open_attribution(RunFolder(Path(facts["path"])), facts["attribution"])
    trust, others = read_trust(opened), read_baselines(opened)
    found = {**facts, **validated_facts(trust, others), "threshold": threshold}
    if not as_json:
        from magic_tui.trust.validation_lines import validated_lines

        console = stdout()
        for line in validated_lines(trust, others, console.width):
            console.print(line)
    check_threshold(found, threshold, [drop_kind(share) for share in shares])
    if as_json:
        print_json(found)

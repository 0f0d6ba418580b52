"""Arguments and options that several verbs share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Forced(StrEnum):
    """Checks that refuse a run unless they are overridden."""

    DROPOUT = "dropout"
    BFLOAT16 = "bfloat16"
    DERIVATIVE = "derivative"


Force = Annotated[
    list[Forced] | None,
    typer.Option(
        metavar="WHAT",
        help="dropout, bfloat16, derivative: skip the check; scores are less exact.",
    ),
]

Run = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="Id, unique id prefix, name, or name of its folder; default: the latest run.",
    ),
]
RunsDir = Annotated[
    Path | None,
    typer.Option(
        "--runs-dir",
        metavar="DIR",
        help="Folder of runs; default $MAGIC_RUNS, else the user's data folder.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; other output goes to stderr.")
]
Attribution = Annotated[
    str | None,
    typer.Option("--attribution", "-a", metavar="ID", help="Attribution id; default: the latest."),
]
Query = Annotated[int, typer.Option("--query", "-q", metavar="N", help="Query, counted from 0.")]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Print the run's id and return; the run continues.")
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Accept the present code of a run that you did not submit."),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="S", min=0.0, help="Seconds to wait; then exit 4."),
]

"""Arguments and options that several verbs share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Forced(StrEnum):
    """What a run refuses unless it is forced."""

    DROPOUT = "dropout"
    BFLOAT16 = "bfloat16"
    DERIVATIVE = "derivative"


Force = Annotated[
    list[Forced] | None,
    typer.Option(
        metavar="WHAT", help="dropout, bfloat16, derivative: train with less exact scores."
    ),
]

Run = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="Id, unique prefix of one, or name; default the latest."),
]
RunsDir = Annotated[
    Path | None,
    typer.Option(
        "--runs-dir",
        metavar="DIR",
        help="Where runs live; default $MAGIC_RUNS, else the user's data folder.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; all else goes to stderr.")
]
Attribution = Annotated[
    str | None,
    typer.Option("--attribution", "-a", metavar="ID", help="Attribution; default the latest."),
]
Query = Annotated[int, typer.Option("--query", "-q", metavar="N", help="Query, counted from 0.")]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Print the run's id and return; the run continues.")
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Accept the code that a run from elsewhere brings, once."),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="S", min=0.0, help="Seconds to wait; then exit 4."),
]

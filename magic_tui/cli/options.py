"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="Id, unique prefix of one, or name; default the latest."),
]
RunsDir = Annotated[
    Path | None,
    typer.Option("--runs-dir", metavar="DIR", help="Where runs live; default $MAGIC_RUNS."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object; all else goes to stderr.")
]
Attribution = Annotated[
    str | None,
    typer.Option("--attribution", "-a", metavar="ID", help="Attribution; default the latest."),
]
Query = Annotated[
    int, typer.Option("--query", "-q", metavar="N", help="Query, counted from 0.")
]

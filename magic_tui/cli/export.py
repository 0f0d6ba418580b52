"""``magic export``: the scores in a format that other tools read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from engine.contract.errors import UsageError
from magic_tui.cli.options import AsJson, Attribution, Run, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout

if TYPE_CHECKING:
    from magic_tui.client.attribution import Attribution as OpenAttribution

Format = Literal["pt", "csv"]


@reports_errors
def export(
    run: Run = None,
    attribution: Attribution = None,
    format: Annotated[
        Format, typer.Option(help="pt: tensors and config; csv: document scores.")
    ] = "pt",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: RUN-ATTRIBUTION in this folder.")
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the scores in a format that other tools read."""
    from engine.records.naming import runs_folder
    from engine.records.run_folder import find_run
    from magic_tui.client.attribution import open_attribution
    from magic_tui.safe_text import safe_text

    opened = open_attribution(find_run(runs_folder(runs_dir), run), attribution)
    folder = (out or Path(f"{opened.run.id}-{opened.id}")).expanduser().absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} is already there and not an empty folder; name another --out")
    _write(opened, format, folder)
    files = sorted(str(path) for path in folder.iterdir())
    if as_json:
        facts: dict[str, Any] = {"run": opened.run.id, "attribution": opened.id}
        print_json({**facts, "format": format, "path": str(folder), "files": files})
        return
    for file in files:
        stdout().print(safe_text(file), soft_wrap=True)


def _write(attribution: "OpenAttribution", format: str, folder: Path) -> None:
    from magic_tui.client.export_csv import write_documents_csv
    from magic_tui.client.worker import run_worker

    if format == "csv":
        write_documents_csv(attribution, folder)
        return
    run_worker(
        [
            "export",
            *("--run", str(attribution.run.path)),
            *("--attribution", attribution.id),
            *("--out", str(folder)),
            *("--format", format),
        ]
    )

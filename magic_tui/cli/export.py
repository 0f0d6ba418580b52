"""``magic export``: the scores in a format that other tools read."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from magic_tui.cli.options import AsJson, Attribution, Run, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout

Format = Literal["pt", "csv"]


@reports_errors
def export(
    run: Run = None,
    attribution: Attribution = None,
    format: Annotated[
        Format, typer.Option(help="pt: tensors and config; csv: document scores.")
    ] = "pt",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Default: RUN-ATTRIBUTION-FORMAT in this folder."),
    ] = None,
    runs_dir: RunsDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the scores to files for other tools.

    csv: documents.csv, one line for each document with its score for each query.

    pt: query-N/scores.pt for each query and doc_ids.pt, of shape (tokens,) without padding, or
    (documents,) with granularity: document; README.txt shows how to read them. Document scores
    are per_doc = torch.zeros(documents);
    per_doc.scatter_add_(0, doc_ids.flatten(), scores.flatten())
    """
    from engine.runs.listing import find_run
    from engine.runs.paths import runs_folder
    from engine.runs.safe_text import safe_text
    from engine.scores.attribution import open_attribution
    from magic_tui.explore.export import default_folder, export_scores

    opened = open_attribution(find_run(runs_folder(runs_dir), run), attribution)
    folder = out or Path(default_folder(opened, format))
    files = [str(path) for path in export_scores(opened, format, folder)]
    if as_json:
        facts: dict[str, Any] = {"run": opened.run.id, "attribution": opened.id}
        path = str(folder.expanduser().absolute())
        print_json({**facts, "format": format, "path": path, "files": files})
        return
    for file in files:
        stdout().print(safe_text(file), soft_wrap=True)

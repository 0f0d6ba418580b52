"""The notebook runs on a small run that was validated."""

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

from tests.docs.pages import ROOT
from tests.docs.test_snippets import folder as folder
from tests.docs.test_snippets import run_shell, write_small_config

NOTEBOOK = ROOT / "examples" / "explore_scores.ipynb"


def test_has_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_cells_run(folder: Path) -> None:
    matplotlib.use("agg")
    write_small_config(folder)
    run_shell("magic run small.yaml && magic validate --drop 0.2 --count 5", folder)
    names: dict[str, object] = {}
    for number, cell in enumerate(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert len(plt.get_fignums()) == 5
    plt.close("all")

"""How the configs of two runs differ, as lines of text."""

from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from engine.runs.errors import MagicError
from engine.runs.run_folder import RunFolder
from engine.runs.safe_text import one_line
from engine.runs.states import View
from magic_tui.text.cells import fit, pad


def difference_lines(marked: View, run: View, width: int) -> Iterator[Text]:
    """One line a field: the marked run's value → this run's."""
    head = f"{one_line(marked['name'])} (marked) → {one_line(run['name'])} {one_line(run['id'])}"
    yield Text(fit(head, width), "bold")
    try:
        before, after = (RunFolder(Path(view["path"])).config_fields() for view in (marked, run))
    except (MagicError, OSError) as error:
        yield Text(fit(f"! {one_line(str(error))}", width), "color(172)")
        return
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if not names:
        yield Text("the same config", "dim")
        return
    room = min(36, max(len(name) for name in names))
    half = max(8, (width - room - 6) // 2)
    for name in names:
        values = [fit(one_line(str(side.get(name, "–"))), half) for side in (before, after)]
        line = Text(no_wrap=True).append(pad(name, room), "dim").append("  ")
        yield line.append(values[0]).append(" → ").append(values[1], "bold")

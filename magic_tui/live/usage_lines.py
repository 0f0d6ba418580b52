"""What a run and its machine use of memory, of devices and of disk, as lines of text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from engine.runs.safe_text import one_line
from engine.runs.states import View
from magic_tui.text.cells import join_that_fit, pad
from magic_tui.text.numbers import bytes_text

if TYPE_CHECKING:
    from magic_tui.live.run_history import Snapshot

_NAME_WIDTH = 8
_FULL, _EMPTY, _BUDGET = "█", "░", "│"


def usage_lines(
    moment: "Snapshot", run: View | None, engine: View | None, budget: float | None, width: int
) -> Iterator[Text]:
    """Memory and disk, then one line a device."""
    bar_width = max(6, min(24, width - 66))
    most = moment.predicted or budget or (engine or {}).get("memory_total")
    words = [f"{bytes_text(moment.memory)} with Python, most {bytes_text(moment.peak)}"]
    if moment.predicted is not None:
        words.append(f"predicted {bytes_text(moment.predicted)}")
    if budget is not None:
        words.append(f"budget {bytes_text(budget)}")
    if engine is not None:
        total = bytes_text(engine["memory_total"])
        words.append(f"machine {bytes_text(engine['memory_used'])} of {total}")
    yield _line("memory", moment.memory, most, words, (width, bar_width))
    if run is not None or engine is not None:
        size = None if run is None else run["trajectory_bytes"] + run["scores_bytes"]
        free = None if engine is None else engine["disk_free"]
        words = [f"{bytes_text(size)} of this run", f"{bytes_text(free)} free"]
        whole = None if size is None or free is None else size + free
        yield _line("disk", size, whole, words, (width, bar_width))
    for device in (engine or {}).get("devices") or ():
        used, total = device["memory_used"], device["memory_total"]
        words = [f"{bytes_text(used)} of {bytes_text(total)}", one_line(device["name"])]
        if device["run"]:
            words.append(f"run {one_line(device['run'])}")
        name = f"GPU {device['id']}"
        yield _line(one_line(name), used, total, words, (width, bar_width))


def _line(
    name: str, used: float | None, most: float | None, words: list[str], widths: tuple[int, int]
) -> Text:
    width, bar_width = widths
    line = Text(no_wrap=True).append(pad(name, _NAME_WIDTH), "bold")
    share = min(1.0, used / most) if used is not None and most else 0.0
    full = round(share * bar_width)
    style = "color(215)" if share > 0.9 else "color(75)"
    line.append(_FULL * full, style).append(_EMPTY * (bar_width - full), "dim").append("  ")
    return line.append(join_that_fit(words, max(0, width - line.cell_len), " · "))

"""Output of ``magic doctor`` as lines of text."""

from collections.abc import Iterator

from rich.text import Text

from engine.runs.safe_text import one_line
from magic_tui.cli.machine import Machine
from magic_tui.text.cells import wrap
from magic_tui.text.numbers import bytes_text

_NAME_WIDTH = 14
_MOST_LINES = 4


def machine_lines(machine: Machine, width: int) -> Iterator[Text]:
    """One fact per line, then the problems, or a line that there are none."""
    for name, value in _facts(machine):
        lines = wrap(one_line(value), width - _NAME_WIDTH, _MOST_LINES) or [""]
        for index, line in enumerate(lines):
            label = name if index == 0 else ""
            yield Text().append(label.ljust(_NAME_WIDTH), "dim").append(line)
    yield Text()
    if not machine.problems:
        yield Text().append("✓ ", "green").append("nothing is missing for a run")
    for problem in machine.problems:
        for index, line in enumerate(wrap(one_line(problem), width - 2, _MOST_LINES)):
            yield Text().append("! " if index == 0 else "  ", "bold color(172)").append(line)


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    yield "python", f"{machine.python} on {machine.platform}"
    if machine.torch is None:
        yield "torch", "–"
    else:
        yield "torch", f"{machine.torch['version']} ({_build(machine)})"
        for index, device in enumerate(machine.torch["devices"]):
            yield f"GPU {index}", f"{device['name']}, {bytes_text(device['memory'])}"
        if not machine.torch["devices"]:
            yield "GPU", "none that torch can use: runs use the CPU"
    for name, version in machine.libraries.items():
        yield name, version or "not installed"
    yield "cores", str(machine.cores)
    yield "memory", f"{bytes_text(machine.free_memory)} free of {bytes_text(machine.memory)}"
    yield "runs", f"{machine.runs_dir} ({bytes_text(machine.free_disk)} free)"
    yield "hub cache", f"{machine.hub_cache} ({bytes_text(machine.hub_cache_bytes)})"


def _build(machine: Machine) -> str:
    assert machine.torch is not None
    if machine.torch["cuda"]:
        return f"CUDA {machine.torch['cuda']} build"
    return f"ROCm {machine.torch['hip']} build" if machine.torch["hip"] else "CPU build"

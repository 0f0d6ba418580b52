"""``magic doctor``: whether this machine has what a run needs."""

from magic_tui.cli.options import AsJson, RunsDir
from magic_tui.cli.output import print_json, reports_errors, stdout


@reports_errors
def doctor(runs_dir: RunsDir = None, as_json: AsJson = False) -> None:
    """Check this machine for problems that would stop or slow a run."""
    from engine.runs.paths import runs_folder
    from magic_tui.cli.machine import examine
    from magic_tui.cli.machine_lines import machine_lines

    machine = examine(runs_folder(runs_dir))
    if as_json:
        print_json(machine.facts())
        return
    console = stdout()
    for line in machine_lines(machine, console.width):
        console.print(line)

"""Entry point of the ``magic`` command."""

import sys


def main() -> None:
    """Run the command line."""
    from engine.runs.environment import keep_files_private

    keep_files_private()
    if sys.argv[1:2] == ["tui"]:
        from magic_tui.cli.dashboard import open_plainly

        if open_plainly(sys.argv[2:]):
            return
    from magic_tui.cli.verbs import app

    app(prog_name="magic")

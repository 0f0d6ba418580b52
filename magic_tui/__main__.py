"""``python -m magic_tui`` is ``magic``."""

from magic_tui.cli.main import main

if __name__ == "__main__":
    main()

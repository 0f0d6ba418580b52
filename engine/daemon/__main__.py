"""``python -m engine.daemon``: the same as ``magic-engine``."""

from engine.daemon.main import main

if __name__ == "__main__":
    main()

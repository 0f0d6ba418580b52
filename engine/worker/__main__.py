"""``python -m engine.worker``, the same as ``magic-worker``."""

from engine.worker.main import run

if __name__ == "__main__":
    run()

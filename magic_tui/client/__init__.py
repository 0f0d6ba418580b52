"""How the faces of magic reach the work: the worker process, and what runs left on disk."""

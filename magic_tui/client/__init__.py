"""How the faces of magic reach the work: the engine, a worker process, what runs left on disk."""

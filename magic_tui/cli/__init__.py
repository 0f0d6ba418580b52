"""The verbs of ``magic``, one per file. Slow modules are imported when a verb is called."""

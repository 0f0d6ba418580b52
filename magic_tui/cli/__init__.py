"""The verbs of ``magic``, one a file. What is heavy to import is imported when a verb is called."""

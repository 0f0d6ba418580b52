"""Retrainings without some documents, and how well scores predict them: LDS, intervals, verdict."""

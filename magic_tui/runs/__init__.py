"""Runs: the list, one run in detail, a new run."""

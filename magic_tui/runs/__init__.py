"""Runs: the list, one run in detail, starting a run."""

"""Queries: choosing texts to ask a run about."""

"""The headless engine: queue, supervision and views of runs; no torch anywhere in it."""

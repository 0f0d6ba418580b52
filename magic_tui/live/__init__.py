"""Live: what a run does now, or did at any recorded time."""

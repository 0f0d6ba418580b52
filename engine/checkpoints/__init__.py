"""The trajectory on disk, and the plan of what of it to keep."""

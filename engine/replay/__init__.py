"""The train step, its vector-Jacobian product, checkpointing schedules and replay."""

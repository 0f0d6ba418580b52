"""The mathematics: train step, its vector-Jacobian product, schedules and replay.

Nothing here reads files, opens sockets or knows what a language model is.
"""

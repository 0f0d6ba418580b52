"""Distributed training and replay: parameters, states and rows divided among processes."""

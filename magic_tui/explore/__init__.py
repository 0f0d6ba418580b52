"""Explore: ranked documents, their tokens, influence over training, reasons."""

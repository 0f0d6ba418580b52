"""Explore scores: ranked documents, shaded tokens, influence over training, reasons."""

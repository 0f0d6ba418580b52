"""Regions of a screen, one a file."""

"""Text for terminals: cells, numbers, bars, charts, shaded tokens."""

"""Text for a terminal: cells, numbers, bars and coloured tokens."""

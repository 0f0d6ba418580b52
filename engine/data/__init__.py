"""From data sets to batches: documents, tokens, rows and the order of training. Loads no torch."""

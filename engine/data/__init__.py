"""From data sets to rows: documents, tokens and the order of training. Does not import torch."""

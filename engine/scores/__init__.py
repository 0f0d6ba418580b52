"""Reading the scores of a finished attribution. Loads no torch."""

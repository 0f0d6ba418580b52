"""Trust: how well the scores predict retrainings."""

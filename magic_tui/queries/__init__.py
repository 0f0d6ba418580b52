"""Choose query texts and submit an attribution."""

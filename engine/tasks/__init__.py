"""Tasks: language modelling, image classification, or a user's own task."""

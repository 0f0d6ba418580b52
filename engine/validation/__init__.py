"""Trainings without some of the documents, and what they say of an attribution's scores."""

"""The Textual application: what all of its screens share."""

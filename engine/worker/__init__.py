"""One rank of a run: prepare, train, measure, replay, record."""

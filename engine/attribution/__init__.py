"""A prepared run and the queries it is asked: losses, replay, scores."""

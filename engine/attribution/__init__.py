"""A prepared run and its queries: losses, replay, scores."""

"""Training that records its trajectory, and the data stream it consumes."""

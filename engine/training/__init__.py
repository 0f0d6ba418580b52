"""Training that records its trajectory: data stream, loop, query losses and the Trainer."""

"""The Trust screen: how well scores predict retrainings."""

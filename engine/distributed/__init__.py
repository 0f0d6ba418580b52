"""Several ranks with one model: parameters, states and rows divided among processes."""

"""The cost model: time, memory and disk of a training and its replays."""

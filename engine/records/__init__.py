"""What a run leaves on disk: its folder, its journal and its scores. Loads no torch."""

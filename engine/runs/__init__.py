"""What a run is on disk: config, events, errors, journal, tables and scores. Loads no torch."""

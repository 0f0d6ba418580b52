"""The command line and the dashboard of magic. Loads no torch: numerics run in a worker process."""

"""Access of the command line and the dashboard to the engine and to worker processes."""

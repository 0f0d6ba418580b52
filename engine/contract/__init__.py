"""What every face of magic agrees on: the run config, the events and the errors. Loads no torch."""

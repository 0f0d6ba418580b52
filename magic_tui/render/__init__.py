"""How scores, tokens and runs look on a terminal; shared by the command line and the dashboard."""

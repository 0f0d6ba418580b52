"""Models and their losses: torch modules and transformers causal language models."""

"""Models and their losses: any torch module, and transformers' causal language models."""

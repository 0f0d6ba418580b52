"""Language models of transformers, real in kind and tiny in size, with random weights."""

from typing import Any

import torch

from engine.models.float64 import compute_in_float64

VOCABULARY = 41
"""Odd on purpose, as are most sizes of these tests."""

_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 16,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GEMMA = {**_LLAMA_LIKE, "head_dim": 8}
_PHI = {**_LLAMA_LIKE, "partial_rotary_factor": 0.5, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2 tied": ("gpt2", _GPT2),
    "gpt2 untied": ("gpt2", {**_GPT2, "tie_word_embeddings": False}),
    "gpt2 two layers": ("gpt2", {**_GPT2, "n_layer": 2}),
    "llama tied": ("llama", {**_LLAMA_LIKE, "tie_word_embeddings": True}),
    "llama untied": ("llama", {**_LLAMA_LIKE, "tie_word_embeddings": False}),
    "llama two layers": ("llama", {**_LLAMA_LIKE, "num_hidden_layers": 2}),
    "gemma tied": ("gemma", _GEMMA),
    # A low cap, so that it bends even the small logits of a tiny model.
    "gemma2 soft cap": (
        "gemma2",
        {**_GEMMA, "query_pre_attn_scalar": 8, "final_logit_softcapping": 0.5},
    ),
    "phi head bias": ("phi", _PHI),
}

_LONG = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}
_FACTORS = {"short_factor": [1.0, 1.5, 1.0, 2.0], "long_factor": [2.0, 3.0, 2.5, 1.5]}
_PHI3 = {**_LLAMA_LIKE, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
UNUSUAL: dict[str, tuple[str, dict[str, Any]]] = {
    # Rotary embeddings for rows within, and beyond, the length of pretraining.
    **{
        f"phi3 longrope {name}": (
            "phi3",
            {
                **_PHI3,
                "original_max_position_embeddings": length,
                "rope_parameters": {
                    **_LONG,
                    **_FACTORS,
                    "original_max_position_embeddings": length,
                },
            },
        )
        for name, length in (("short", 12), ("long", 2))
    },
    "mixtral": ("mixtral", {**_LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "xglm": (
        "xglm",
        {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "num_layers": 1,
            "attention_heads": 2,
            "ffn_dim": 20,
            "max_position_embeddings": 16,
            "layerdrop": 0.0,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
        },
    ),
}
"""Models that need something of their own to be exact, most of all in float64."""


def tiny_model(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """A model of :data:`CONFIGS` or :data:`UNUSUAL`.

    All its parameters, biases too, are drawn from ``seed``.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, options = {**CONFIGS, **UNUSUAL}[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **options), attn_implementation="eager", dtype=dtype
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)
    if dtype == torch.float64:
        compute_in_float64(model)
    return model.eval()

"""The derivative check over every family of transformers' causal language models.

Each family is built with random weights, as small as its config allows, loaded as a run would load
it, and its derivatives are compared with finite differences. Prints one line of JSON for each
family and a summary:

    nice python -m benchmarks.bench_families [family ...] > families.jsonl
"""

import json
import re
import signal
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM, logging
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from engine.models.causal_lm_loss import CausalLMLoss
from engine.models.checked_derivatives import check_derivatives
from engine.models.module_loss import ModuleLoss
from engine.replay.state import Batch

SECONDS = 120
"""Time limit of a family, in seconds."""
PARAMETERS = 4_000_000
"""Size limit of a family, in parameters."""
VOCABULARY, TOKENS, ROWS = 61, 20, 3
MEMORY = 2**32
SMALL: list[tuple[str, Any]] = [
    (r"(padded_)?vocab_size(_per_layer_input)?|n_vocab", VOCABULARY),
    (r"hidden_size|n_embd|d_model|dim|embed_dim|model_dim|n_embed|word_embed_proj_dim", 32),
    (r"embedding_size|embedding_dim|emb_dim|expansion_dim", 32),
    (r"hidden_size_per_layer_input", 8),
    (r"intermediate_size(_mlp)?|ffn_dim|n_inner|d_ff|ffn_hidden_size|.*_ffn_dim", 48),
    (r"(moe|shared_expert|shared|expert|dense)_intermediate_size|feed_forward_size", 16),
    (r"moe_(layer_)?ffn_hidden_size|expert_ffn_hidden_size|.*expert.*_intermediate_size", 16),
    (r"num_hidden_layers|n_layers?|(num_)?(decoder|encoder)_layers|num_layers|num_blocks", 2),
    (r"num_attention_heads|n_heads?|num_heads|(decoder|encoder)_attention_heads", 4),
    (r"attention_heads|linear_num_(key|value)_heads|num_(global_)?key_value_heads", 2),
    (r"num_kv_heads|n_head_kv|multi_query_group_num", 2),
    (r"(global_)?head_dim|(qk|v)_head_dim|d_kv|attention_head_dim|attention_hidden_size", 8),
    (r"linear_(key|value)_head_dim|kv_channels", 8),
    (r"qk_nope_head_dim|qk_rope_head_dim|rotary_dim|index_head_dim", 8),
    (r"q_lora_rank|kv_lora_rank|dt_rank|time_step_rank|.*_lora_rank|.*_low_rank_dim", 8),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|seq_length|max_sequence_length", 64),
    (r"(num_|n_)(local_|routed_)?experts|moe_num_experts|num_experts", 4),
    (r"num_experts_per_tok|moe_top_?k|moe_k|num_selected_experts|top_k_experts", 2),
    (r"n_group|topk_group|num_expert_group|n_shared_experts|num_shared_experts", 1),
    (r"sliding_window(_size)?|attention_window_size|window_size|local_window", 8),
    (r"state_size|ssm_state_size|d_state|mamba_d_state|conv_kernel|mamba_d_conv", 4),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", 4),
    (r"mamba_d_head|mamba_headdim|mamba_head_dim", 16),
    (r"(mamba_)?n_groups|mamba_n_groups|mamba_ngroups", 1),
    (r"chunk_size|mamba_chunk_size", 8),
    (r"lru_width", 32),
    (r"pad_token_id|bos_token_id|decoder_start_token_id|sep_token_id", 0),
    (r"eos_token_id", 1),
    (r".*(dropout|pdrop|drop_rate|layerdrop|jitter_noise|dropout_p)(_rate|_prob)?", 0.0),
    (r"is_decoder", True),
]
"""Values of config fields, by field name."""
_LATENT: dict[str, Any] = {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1}
"""Latent attention expands to as many keys as queries."""
SPECIAL: dict[str, dict[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},
    "codegen": {"rotary_dim": 4},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "gptj": {"rotary_dim": 4},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4, "moe_topk": 2},
    "kimi_linear": {**_LATENT, "num_experts": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2},
    "reformer": {
        "attn_layers": ["local", "local"],
        "axial_pos_shape": [4, 8],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 8,
    },
    "rwkv": {"context_length": 64, "attention_hidden_size": 32},
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite",
         "glm_moe_dsa", "longcat_flash", "youtu", "minicpm3"),
        _LATENT,
    ),
}  # fmt: skip
"""Settings of single families."""
SUB = ("text_config", "decoder", "decoder_config", "language_config")


def small_config(family: str) -> Any:
    """A config of the family in which every known size is small."""
    base = CONFIG_MAPPING[family]
    fields = {**_small_fields(base()), **SPECIAL.get(family, {})}
    return base(**{name: value for name, value in fields.items() if value is not None})


def _small_fields(config: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if name in SUB and isinstance(value, dict):
            fields[name] = _small_fields(getattr(config, name))
            if kind := value.get("model_type"):
                fields[name]["model_type"] = kind
        elif isinstance(value, int | float | None):
            for pattern, small in SMALL:
                if re.fullmatch(pattern, name) and (value is not None or small == 0):
                    fields[name] = small
    return fields


def families(chosen: list[str]) -> Iterator[dict[str, Any]]:
    """The results of all families."""
    for family in chosen or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(SECONDS)
        began = time.perf_counter()
        try:
            outcome = _checked(family)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            outcome = {"outcome": "failed", "why": f"{type(error).__name__}: {text}"}
        finally:
            signal.alarm(0)
        yield {"family": family, **outcome}
        print(family, f"{time.perf_counter() - began:.1f} s", file=sys.stderr)


def _checked(family: str) -> dict[str, Any]:
    torch.manual_seed(0)
    began = time.perf_counter()
    try:
        model = AutoModelForCausalLM.from_config(
            small_config(family), attn_implementation="eager", dtype=torch.float32
        )
        size = sum(p.numel() for p in model.parameters())
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        return {"outcome": "not built", "why": f"{type(error).__name__}: {text}"}
    if size > PARAMETERS:
        return {"outcome": "not built", "why": f"{size} parameters"}
    model.eval()
    ids = torch.randint(2, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))
    batch = Batch({"input_ids": ids, "labels": ids}, torch.ones(ids.shape), ids.numel())
    try:
        loss = CausalLMLoss(model)
        ModuleLoss(loss)(ModuleLoss(loss).parameters(), batch)
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        return {"outcome": "not a text model", "why": f"{type(error).__name__}: {text}"}
    built = time.perf_counter() - began
    began = time.process_time()
    check = check_derivatives(ModuleLoss(loss), batch, MEMORY)
    return {
        "outcome": "passed" if check.passed else "refused",
        "error": check.error,
        "dtype": check.dtype,
        "seconds": time.process_time() - began,
        "built_seconds": built,
        "parameters": size,
        "why": check.problem,
    }


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def main() -> None:
    """Check the named families, or all."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    outcomes = []
    for each in families(sys.argv[1:]):
        outcomes.append(each)
        print(json.dumps(each), flush=True)
    print(Counter(each["outcome"] for each in outcomes), file=sys.stderr)
    seconds = [each["seconds"] for each in outcomes if each["outcome"] == "passed"]
    errors = [each["error"] for each in outcomes if each["outcome"] == "passed"]
    if seconds:
        print(
            f"passed: error {statistics.median(errors):.1e} (median), {max(errors):.1e} (largest); "
            f"{statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s (longest)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()

"""Model folders: weights that are not finite, adapters, and float64."""

import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from engine.attribution.prepare import warnings_of
from engine.models.load import LoadedCausalLM, load_causal_lm
from engine.runs.config import ModelConfig, RunConfig
from engine.runs.errors import UsageError

CPU = torch.device("cpu")


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A model with its weights."""
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def loaded(folder: Path, **options: object) -> LoadedCausalLM:
    return load_causal_lm(ModelConfig(path=str(folder), dropout=0.0, **options), 0, CPU)


def add_adapter(folder: Path, to: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    settings = peft.LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False)
    peft.get_peft_model(model, settings).save_pretrained(to)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_named(value: float, folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("mlp.c_fc.weight"))
    weights[name][0, 0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UsageError, match=r"m: transformer\.h\.0\.mlp\.c_fc\.weight contains values"
    ):
        loaded(folder)


def test_an_adapter_beside_the_weights_is_not_loaded(folder: Path) -> None:
    plain = loaded(folder).loss.state_dict()
    add_adapter(folder, folder)
    model = loaded(folder)
    assert model.frozen == 0
    assert model.loss.state_dict().keys() == plain.keys()
    assert all(torch.equal(tensor, plain[n]) for n, tensor in model.loss.state_dict().items())
    adapted = loaded(folder, lora={"rank": 2, "target_modules": ["c_fc"]}).loss
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained and all(".c_fc.lora_" in name for name in trained)


def test_an_adapter_that_is_not_loaded_is_warned_about(
    folder: Path, config: dict[str, object]
) -> None:
    given = RunConfig.model_validate({**config, "model": {"path": str(folder)}})
    assert warnings_of(given) == []
    add_adapter(folder, folder)
    (sentence,) = warnings_of(given)
    assert f"the adapter beside the weights in {folder} is not used" in sentence


def test_an_adapter_without_its_model_is_refused(folder: Path, tmp_path: Path) -> None:
    add_adapter(folder, tmp_path / "adapter")
    with pytest.raises(UsageError, match="adapter contains an adapter but no model; merge it"):
        loaded(tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["mixtral", "xglm"])
def test_float64(kind: str, folder: Path) -> None:
    options = {
        "mixtral": {
            **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4},
        },
        "xglm": {"d_model": 16, "ffn_dim": 16, "num_layers": 1, "attention_heads": 2},
    }[kind]
    common = {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    AutoConfig.for_model(kind, **{**common, **options}).save_pretrained(folder)
    model = loaded(folder, dtype="float64", from_scratch=True)
    assert next(model.loss.parameters()).dtype == torch.float64

"""A run that takes a second: a one-layer model, seven sentences, two queries."""

import json
import os
from pathlib import Path
from typing import Any

SENTENCES = [
    "the cat sat on the mat and looked at the dog",
    "a dog ran over the hill to the old house",
    "the old man in the house sat by the fire",
    "rain fell on the hill and on the roof of the house",
    "the fire was warm and the cat was asleep",
    "a ship sailed over the sea to the far land",
    "the sea was dark and the wind was cold",
]
QUERIES = ["the cat sat by the fire", "the sea"]


def tiny_model(folder: Path) -> Path:
    """Config and tokenizer of a GPT-2 of one layer, no weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(
        folder
    )
    GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=32, n_embd=16, n_layer=1, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def tiny_config(folder: Path, model: Path) -> dict[str, Any]:
    """A config whose data lie in ``folder``."""
    for name, texts in (("train", SENTENCES), ("queries", QUERIES)):
        lines = [json.dumps({"text": text, "length": len(text)}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return {
        "name": "tiny",
        "model": {"path": str(model), "from_scratch": True},
        "data": {"path": str(folder / "train.jsonl"), "sequence_length": 32},
        "training": {"epochs": 2, "batch_size": 3, "optimizer": {"learning_rate": 1e-2}},
        "queries": {"path": str(folder / "queries.jsonl")},
    }


def one_thread() -> None:
    """Settings of a process that will be forked: nothing may start threads."""
    os.environ.update(TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", MAGIC_SAVE_SECONDS="0")


def load_libraries(config: dict[str, Any]) -> None:
    """Load everything a rank loads, once for all forks, without starting a thread."""
    import pyarrow.parquet
    import torch
    import zarr
    import zarr.codecs

    from engine.models.load import load_causal_lm
    from engine.runs.config import RunConfig

    assert pyarrow.parquet and zarr.codecs
    torch.set_num_threads(1)
    model = RunConfig.model_validate(config).model
    load_causal_lm(model, 0, torch.device("cpu"), force_dropout=False)

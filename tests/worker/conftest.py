"""A tiny model, a few documents, and the worker called as the command line calls it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.worker.__main__ import main

torch.set_num_threads(1)

SENTENCES = [
    "the cat sat on the mat and looked at the dog",
    "a dog ran over the hill to the old house",
    "the old man in the house sat by the fire",
    "rain fell on the hill and on the roof of the house",
    "the fire was warm and the cat was asleep",
    "a ship sailed over the sea to the far land",
    "the sea was dark and the wind was cold",
]

Outcome = dict[str, Any]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Config and tokenizer of a GPT-2 of one layer, no weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
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


@pytest.fixture
def config(tmp_path: Path, model_folder: Path) -> dict[str, Any]:
    """A config that runs in a second; tests change what they are about."""
    for name, texts in (("train", SENTENCES), ("queries", ["the cat sat by the fire", "the sea"])):
        lines = [json.dumps({"text": text, "length": len(text)}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return {
        "name": "tiny",
        "model": {"path": str(model_folder), "from_scratch": True},
        "data": {"path": str(tmp_path / "train.jsonl"), "sequence_length": 32},
        "training": {"epochs": 2, "batch_size": 3, "optimizer": {"learning_rate": 1e-2}},
        "queries": {"path": str(tmp_path / "queries.jsonl")},
    }


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of runs."""
    return tmp_path / "runs"


@pytest.fixture
def worker(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the worker; returns its outcome after checking the exit code against it."""

    def call(*arguments: object) -> Outcome:
        code = main([str(argument) for argument in arguments])
        output = capsys.readouterr().out
        outcome = dict(json.loads(output))
        assert output.count("\n") == 1
        assert code == outcome.get("exit_code", 0)
        return outcome

    return call


@pytest.fixture
def start(
    tmp_path: Path, runs: Path, worker: Callable[..., Outcome]
) -> Callable[[dict[str, Any], str], Outcome]:
    """Run a config under an id; returns the outcome."""

    def run(config: dict[str, Any], identifier: str = "r1") -> Outcome:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        return worker("run", "--config", file, "--runs", runs, "--id", identifier)

    return run

"""Tiny but real tokenizers, made on the spot."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Examples have no time limit: a busy machine must not fail a test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

SENTENCES = (
    "the cat sat on the mat and the dog sat on the cat",
    "what is the capital of France? the capital of France is Paris",
    "a model learns what its training documents teach it",
)
END, START = "<|end|>", "<|start|>"


def _byte_level_bpe(special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def plain_tokenizer() -> PreTrainedTokenizerFast:
    """Like GPT-2's: byte-level BPE that adds no special tokens; its model takes few tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe([END]), eos_token=END, model_max_length=8
    )


@pytest.fixture(scope="session")
def framing_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts a special token before and another after every text."""
    backend = _byte_level_bpe([START, END])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(name, backend.token_to_id(name)) for name in (START, END)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=START, eos_token=END)


@pytest.fixture(scope="session")
def slow_tokenizer() -> ByT5Tokenizer:
    """A tokenizer without offsets: one token a byte, and an end token after every text."""
    return ByT5Tokenizer()


@pytest.fixture(scope="session")
def pieces() -> Callable[[PreTrainedTokenizerBase, list[int]], list[bytes]]:
    """The bytes that each token of a byte-level tokenizer stands for; none for special tokens."""

    def split(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[bytes]:
        to_byte = _bytes_of_characters()
        tokens = tokenizer.convert_ids_to_tokens(ids)
        return [
            b"" if token in (START, END) else bytes(to_byte[character] for character in token)
            for token in tokens
        ]

    return split


def _bytes_of_characters() -> dict[str, int]:
    """The byte behind each character of the byte-level alphabet, by its definition."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}

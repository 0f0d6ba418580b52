"""Documents as token ids, and which of those tokens the training learns to predict."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.data.sources import Cut, Documents
from engine.runs.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Large enough to keep a fast tokenizer's threads busy, small enough to keep its offsets in memory.
_BATCH = 1000


class Fault(StrEnum):
    """Why there is nothing to predict in a document."""

    MISSING = "without text"
    EMPTY = "empty"
    BLANK = "blank"
    NO_TOKEN = "without a token"
    SINGLE = "of a single token"
    BEYOND = "with a prompt that fills data.sequence_length"


@dataclass(frozen=True)
class TokenizedDocument:
    """The tokens of one document.

    Attributes:
        input_ids: (tokens,) token ids.
        predicted: (tokens,) whether a loss is taken on predicting the token, given one before it:
            every token of a text, the completion's tokens of a prompt and its completion.
        cut: how many tokens more the document has.
        text_end: the characters that these tokens stand for; None if they are the whole document.
    """

    input_ids: NDArray[np.int32]
    predicted: NDArray[np.bool_]
    cut: int = 0
    text_end: int | None = None

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.input_ids)

    @property
    def targets(self) -> NDArray[np.bool_]:
        """(tokens,) Whether the loss at a position, which predicts the next one, counts."""
        return np.append(self.predicted[1:], False)


@dataclass(frozen=True)
class Tokenized:
    """The documents of a source as a model reads them.

    Attributes:
        documents: those with something to predict.
        tokens: what is read of each.
        given: all documents of the source.
        faults: why the others are left out, by their place among those given.
        length: the number of tokens that documents are cut to, if they are.
    """

    documents: Documents
    tokens: list[TokenizedDocument]
    given: Documents
    faults: dict[int, Fault]
    length: int | None

    def check(self, where: str, noun: str, strict: bool) -> None:
        """Refuse a source without any document to predict, or one such document if ``strict``.

        Args:
            where: the config key of the source, such as ``data`` or ``queries``.
            noun: what its documents are called, in the plural.
            strict: whether a single one is refused.

        Raises:
            UsageError: saying how many, why, and where the first few stand.
        """
        if self.faults and (strict or not self.tokens):
            raise UsageError(f"{self._left_out(where, noun)}; mend or remove them")

    def warnings(self, where: str, noun: str) -> list[str]:
        """What is left out and what is cut, a sentence each."""
        found = []
        if self.faults:
            found.append(
                f"{self._left_out(where, noun)}; they are left out (data.strict: true refuses them)"
            )
        if sentence := cut_sentence([one.cut for one in self.tokens], self.length, where, noun):
            found.append(sentence)
        return found

    def facts(self) -> dict[str, Any]:
        """The same as plain values."""
        cut = [one.cut for one in self.tokens if one.cut]
        return {
            "left_out": dict(Counter(map(str, self.faults.values()))),
            "left_out_first": self.given.places(list(self.faults)) if self.faults else None,
            "cut": len(cut),
            "cut_tokens": sum(cut),
        }

    def _left_out(self, where: str, noun: str) -> str:
        count = len(self.faults)
        reasons = [f"{number} {why}" for why, number in Counter(self.faults.values()).items()]
        return (
            f"{where}: {count} of {len(self.given)} {noun} "
            f"{'holds' if count == 1 else 'hold'} nothing to predict: {', '.join(reasons)} "
            f"({self.given.places(list(self.faults))})"
        )


def cut_sentence(cut: Sequence[int], length: int | None, where: str, noun: str) -> str | None:
    """How many of some documents are cut, given the tokens that each lost; None if none is."""
    count = sum(tokens > 0 for tokens in cut)
    if not count:
        return None
    return (
        f"{where}: {count} of {len(cut)} {noun} {'is' if count == 1 else 'are'} longer than "
        f"data.sequence_length {length}: their last {sum(cut):,} tokens are cut off"
    )


def tokenize(
    documents: Documents, tokenizer: "PreTrainedTokenizerBase", sequence_length: int | None
) -> Tokenized:
    """Tokenise documents as the tokenizer does by default, special tokens included.

    A prompt and its completion are tokenised as one joined text; a token that reaches over the end
    of the prompt belongs to the completion, as do special tokens that follow it. Documents without
    anything to predict are left out.

    Args:
        documents: texts, or prompts with completions.
        tokenizer: any tokenizer of transformers.
        sequence_length: the number of tokens that a document is cut to; None for packing, where
            documents stay whole and are followed by an end-of-sequence token.
    """
    faults: dict[int, Fault] = {}
    tokens: dict[int, TokenizedDocument] = {}
    for start in range(0, len(documents), _BATCH):
        texts = {i: documents.texts(i) for i in range(start, min(start + _BATCH, len(documents)))}
        found = {i: _fault_of_text(documents, i, parts) for i, parts in texts.items()}
        begun = [i for i, fault in found.items() if fault is None]
        of_tokens = _tokenize_batch([texts[i] for i in begun], tokenizer, sequence_length)
        for index, one in {**found, **dict(zip(begun, of_tokens, strict=True))}.items():
            if isinstance(one, Fault):
                faults[index] = one
            elif one is not None:
                tokens[index] = one
    kept = documents.only(list(tokens)) if faults else documents
    if any(one.cut for one in tokens.values()):
        ends = [one.text_end for one in tokens.values()]
        kept = replace(kept, cut=Cut([one.cut for one in tokens.values()], ends))
    return Tokenized(kept, list(tokens.values()), documents, faults, sequence_length)


def _fault_of_text(documents: Documents, index: int, texts: tuple[str, ...]) -> Fault | None:
    """Why nothing can be predicted in a document, whatever the tokenizer."""
    if "" in texts and not documents.has_text(index):
        return Fault.MISSING
    return None if texts[-1].strip() else Fault.BLANK if texts[-1] else Fault.EMPTY


def _tokenize_batch(
    texts: list[tuple[str, ...]], tokenizer: "PreTrainedTokenizerBase", length: int | None
) -> list[TokenizedDocument | Fault]:
    if not texts:
        return []
    joined = ["".join(parts) for parts in texts]
    encoded = _encode(tokenizer, joined)
    found: list[TokenizedDocument | Fault] = []
    for index, ids in enumerate(encoded["input_ids"]):
        start = 0
        if len(texts[index]) == 2:
            start = _completion_start(encoded, index, texts[index][0], tokenizer)
        input_ids = np.array(ids, dtype=np.int32)
        whole = TokenizedDocument(input_ids, np.arange(len(ids)) >= start)
        fault = _fault(whole, length)
        if fault is None and length is not None and len(whole) > length:
            end = _text_end(encoded, index, joined[index], tokenizer, length)
            cut = len(whole) - length
            whole = TokenizedDocument(input_ids[:length], whole.predicted[:length], cut, end)
        found.append(fault or whole)
    return found


def _encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> Any:
    # Cutting and padding are ours: a tokenizer may come with settings of its own for both, and
    # warns of texts longer than its model unless told to be quiet.
    return tokenizer(
        texts, truncation=False, padding=False, return_attention_mask=False, verbose=False
    )


def _completion_start(
    encoded: Any, index: int, prompt: str, tokenizer: "PreTrainedTokenizerBase"
) -> int:
    """The first token of a joined text that belongs to its completion."""
    if tokenizer.is_fast:
        # The first token whose characters end beyond the prompt.
        ends = np.array([end for _, end in encoded.encodings[index].offsets], dtype=np.int64)
        beyond = np.flatnonzero(ends > len(prompt))
        return int(beyond[0]) if len(beyond) else len(ends)
    # Counting the tokens shared with the prompt alone, rather than the prompt's, leaves out special
    # tokens that end it alone and gives a token that reaches over its end to the completion.
    alone = _encode(tokenizer, [prompt])["input_ids"][0]
    pairs = enumerate(zip(encoded["input_ids"][index], alone, strict=False))
    return next((i for i, (a, b) in pairs if a != b), len(alone))


def _text_end(
    encoded: Any, index: int, text: str, tokenizer: "PreTrainedTokenizerBase", length: int
) -> int:
    """How many characters of a text its first ``length`` tokens stand for."""
    if tokenizer.is_fast:
        return max((end for _, end in encoded.encodings[index].offsets[:length]), default=0)
    read = tokenizer.decode(encoded["input_ids"][index][:length], skip_special_tokens=True)
    return min(len(read), len(text))


def _fault(document: TokenizedDocument, length: int | None) -> Fault | None:
    """Why nothing can be predicted in the tokens of a document."""
    if not document.predicted.any():
        return Fault.NO_TOKEN
    if length is None or document.targets[: length - 1].any():
        return None
    return Fault.BEYOND if int(document.predicted.argmax()) >= length else Fault.SINGLE

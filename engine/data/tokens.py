"""Tokenise documents, and mark the tokens that training predicts."""

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

# Large enough for a fast tokenizer's threads, small enough to keep its offsets in memory.
_BATCH = 1000


class Fault(StrEnum):
    """Why a document has nothing to predict."""

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
        predicted: (tokens,) whether the token is predicted if another precedes it: every token of
            a text, or the completion's tokens of a prompt and completion.
        cut: the number of tokens that are cut off.
        text_end: the number of characters that these tokens cover; None if nothing is cut.
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
        """(tokens,) Whether the loss at a position, which predicts the next token, counts."""
        return np.append(self.predicted[1:], False)


@dataclass(frozen=True)
class Tokenized:
    """The tokenised documents of a source.

    Attributes:
        documents: the documents with something to predict.
        tokens: their tokens.
        given: all documents of the source.
        faults: why the other documents are skipped, by their index in ``given``.
        length: the number of tokens that documents are cut to; None if they are not.
    """

    documents: Documents
    tokens: list[TokenizedDocument]
    given: Documents
    faults: dict[int, Fault]
    length: int | None

    def check(self, where: str, noun: str, strict: bool) -> None:
        """Check that documents have something to predict: one of them, or all if ``strict``.

        Args:
            where: the config key of the source, such as ``data`` or ``queries``.
            noun: the plural noun for its documents in messages.
            strict: whether every document must have something to predict.

        Raises:
            UsageError: with the number of such documents, the reasons and the first locations.
        """
        if self.faults and (strict or not self.tokens):
            raise UsageError(f"{self._left_out(where, noun)}; correct or remove them")

    def warnings(self, where: str, noun: str) -> list[str]:
        """A sentence about skipped documents and one about cut documents, if there are any."""
        sentences = []
        if self.faults:
            sentences.append(
                f"{self._left_out(where, noun)}; they are skipped (data.strict: true refuses them)"
            )
        if sentence := cut_sentence([one.cut for one in self.tokens], self.length, where, noun):
            sentences.append(sentence)
        return sentences

    def facts(self) -> dict[str, Any]:
        """The counts of skipped and cut documents."""
        cut = [one.cut for one in self.tokens if one.cut]
        return {
            "left_out": dict(Counter(map(str, self.faults.values()))),
            "left_out_first": self.given.locations(list(self.faults)) if self.faults else None,
            "cut": len(cut),
            "cut_tokens": sum(cut),
        }

    def _left_out(self, where: str, noun: str) -> str:
        count = len(self.faults)
        reasons = [f"{number} {why}" for why, number in Counter(self.faults.values()).items()]
        return (
            f"{where}: {count} of {len(self.given)} {noun} "
            f"{'has' if count == 1 else 'have'} nothing to predict: {', '.join(reasons)} "
            f"({self.given.locations(list(self.faults))})"
        )


def cut_sentence(cut: Sequence[int], length: int | None, where: str, noun: str) -> str | None:
    """A sentence about cut documents, from the tokens cut off each; None if none is cut."""
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
    """Tokenise documents with the tokenizer's defaults, special tokens included.

    A prompt and its completion are tokenised as one text. A token across the boundary belongs to
    the completion, as do special tokens after it. Documents with nothing to predict are skipped.

    Args:
        documents: texts, or prompts with completions.
        tokenizer: any tokenizer of transformers.
        sequence_length: the number of tokens that documents are cut to; None for packing, which
            does not cut documents.
    """
    faults: dict[int, Fault] = {}
    tokens: dict[int, TokenizedDocument] = {}
    for start in range(0, len(documents), _BATCH):
        texts = {i: documents.texts(i) for i in range(start, min(start + _BATCH, len(documents)))}
        results: dict[int, TokenizedDocument | Fault | None] = {
            i: _fault_of_text(documents, i, parts) for i, parts in texts.items()
        }
        usable = [i for i, fault in results.items() if fault is None]
        batch = _tokenize_batch([texts[i] for i in usable], tokenizer, sequence_length)
        results.update(zip(usable, batch, strict=True))
        for index, one in results.items():
            if isinstance(one, Fault):
                faults[index] = one
            elif one is not None:
                tokens[index] = one
    used = documents.only(list(tokens)) if faults else documents
    if any(one.cut for one in tokens.values()):
        ends = [one.text_end for one in tokens.values()]
        used = replace(used, cut=Cut([one.cut for one in tokens.values()], ends))
    return Tokenized(used, list(tokens.values()), documents, faults, sequence_length)


def _fault_of_text(documents: Documents, index: int, texts: tuple[str, ...]) -> Fault | None:
    """Why a document's text has nothing to predict, whatever the tokenizer."""
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
    results: list[TokenizedDocument | Fault] = []
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
        results.append(fault or whole)
    return results


def _encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> Any:
    # Truncation and padding are off, since a tokenizer may have settings for both. verbose=False
    # turns off its warning about texts longer than its model.
    return tokenizer(
        texts, truncation=False, padding=False, return_attention_mask=False, verbose=False
    )


def _completion_start(
    encoded: Any, index: int, prompt: str, tokenizer: "PreTrainedTokenizerBase"
) -> int:
    """The index of the completion's first token in a joined text."""
    if tokenizer.is_fast:
        # The first token whose characters end beyond the prompt.
        ends = np.array([end for _, end in encoded.encodings[index].offsets], dtype=np.int64)
        beyond = np.flatnonzero(ends > len(prompt))
        return int(beyond[0]) if len(beyond) else len(ends)
    # The common prefix with the tokenised prompt excludes special tokens at the prompt's end, and a
    # token across the boundary.
    prompt_ids = _encode(tokenizer, [prompt])["input_ids"][0]
    pairs = enumerate(zip(encoded["input_ids"][index], prompt_ids, strict=False))
    return next((i for i, (a, b) in pairs if a != b), len(prompt_ids))


def _text_end(
    encoded: Any, index: int, text: str, tokenizer: "PreTrainedTokenizerBase", length: int
) -> int:
    """The number of characters of a text that its first ``length`` tokens cover."""
    if tokenizer.is_fast:
        return max((end for _, end in encoded.encodings[index].offsets[:length]), default=0)
    text_read = tokenizer.decode(encoded["input_ids"][index][:length], skip_special_tokens=True)
    return min(len(text_read), len(text))


def _fault(document: TokenizedDocument, length: int | None) -> Fault | None:
    """Why the tokens of a document have nothing to predict."""
    if not document.predicted.any():
        return Fault.NO_TOKEN
    if length is None or document.targets[: length - 1].any():
        return None
    return Fault.BEYOND if int(document.predicted.argmax()) >= length else Fault.SINGLE

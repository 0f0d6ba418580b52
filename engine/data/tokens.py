"""Documents as token ids, and which of those tokens the training learns to predict."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.contract.errors import UsageError
from engine.data.sources import Documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Large enough to keep a fast tokenizer's threads busy, small enough to keep its offsets in memory.
_BATCH = 1000


@dataclass(frozen=True)
class TokenizedDocument:
    """The tokens of one document.

    Attributes:
        input_ids: (tokens,) token ids.
        predicted: (tokens,) whether a loss is taken on predicting the token, given one before it:
            every token of a text, the completion's tokens of a prompt and its completion.
    """

    input_ids: NDArray[np.int32]
    predicted: NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.input_ids)

    @property
    def targets(self) -> NDArray[np.bool_]:
        """(tokens,) Whether the loss at a position, which predicts the next one, counts."""
        return np.append(self.predicted[1:], False)


def tokenize(
    documents: Documents,
    tokenizer: "PreTrainedTokenizerBase",
    sequence_length: int | None,
    where: str,
) -> list[TokenizedDocument]:
    """Tokenise documents as the tokenizer does by default, special tokens included.

    A prompt and its completion are tokenised as one joined text; a token that reaches over the end
    of the prompt belongs to the completion, as do special tokens that follow it.

    Args:
        documents: texts, or prompts with completions.
        tokenizer: any tokenizer of transformers.
        sequence_length: the number of tokens that a document is cut to; None for packing, where
            documents stay whole and are followed by an end-of-sequence token.
        where: the config key of the source, such as ``data`` or ``queries``.

    Raises:
        UsageError: a document has nothing to predict.
    """
    tokenized: list[TokenizedDocument] = []
    for start in range(0, len(documents), _BATCH):
        indices = range(start, min(start + _BATCH, len(documents)))
        tokenized += _tokenize_batch([documents.texts(i) for i in indices], tokenizer)
    _check_targets(documents, tokenized, sequence_length, where)
    if sequence_length is None:
        return tokenized
    return [_cut(document, sequence_length) for document in tokenized]


def _tokenize_batch(
    texts: list[tuple[str, ...]], tokenizer: "PreTrainedTokenizerBase"
) -> list[TokenizedDocument]:
    joined = ["".join(parts) for parts in texts]
    if len(texts[0]) == 1:
        return [_document(ids, 0) for ids in _encode(tokenizer, joined)["input_ids"]]
    prompts = [prompt for prompt, _ in texts]
    if tokenizer.is_fast:
        encoded = _encode(tokenizer, joined, return_offsets_mapping=True)
        starts = map(_first_beyond, encoded["offset_mapping"], map(len, prompts))
    else:
        encoded = _encode(tokenizer, joined)
        starts = map(_shared, encoded["input_ids"], _encode(tokenizer, prompts)["input_ids"])
    return [_document(ids, start) for ids, start in zip(encoded["input_ids"], starts, strict=True)]


def _encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str], **options: bool) -> Any:
    # Cutting and padding are ours: a tokenizer may come with settings of its own for both, and
    # warns of texts longer than its model unless told to be quiet.
    return tokenizer(
        texts,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        verbose=False,
        **options,
    )


def _document(ids: list[int], completion_start: int) -> TokenizedDocument:
    input_ids = np.array(ids, dtype=np.int32)
    return TokenizedDocument(input_ids, np.arange(len(ids)) >= completion_start)


def _first_beyond(offsets: list[tuple[int, int]], prompt_length: int) -> int:
    """The first token whose characters end beyond the prompt."""
    ends = np.array([end for _, end in offsets], dtype=np.int64)
    beyond = np.flatnonzero(ends > prompt_length)
    return int(beyond[0]) if len(beyond) else len(offsets)


def _shared(joined: list[int], prompt: list[int]) -> int:
    """The number of tokens that the joined text shares with its prompt tokenised alone.

    Counting shared tokens, rather than the prompt's, leaves out special tokens that end the prompt
    alone and gives a token that reaches over its end to the completion.
    """
    pairs = enumerate(zip(joined, prompt, strict=False))
    return next((i for i, (a, b) in pairs if a != b), len(prompt))


def _cut(document: TokenizedDocument, length: int) -> TokenizedDocument:
    return TokenizedDocument(document.input_ids[:length], document.predicted[:length])


def _check_targets(
    documents: Documents,
    whole: list[TokenizedDocument],
    sequence_length: int | None,
    where: str,
) -> None:
    faults = {
        i: fault
        for i, document in enumerate(whole)
        if (fault := _fault(documents.texts(i)[-1], document, sequence_length))
    }
    if not faults:
        return
    first = next(iter(faults))
    more = f" (and of {len(faults) - 1} more)" if len(faults) > 1 else ""
    kind = "text" if len(documents.text_columns) == 1 else "completion"
    raise UsageError(
        f"{where}.{kind}_column: the {kind} of row {documents.source_rows[first]} (from 0){more} "
        f"{faults[first]}."
    )


def _fault(text: str, document: TokenizedDocument, sequence_length: int | None) -> str | None:
    """Why a whole document cannot be trained on, and what to do about it."""
    if not text:
        return "is empty; fill it in or remove the row"
    if not document.predicted.any():
        return "yields no token; change it or remove the row"
    if sequence_length is None or _cut(document, sequence_length).targets.any():
        return None
    before = int(document.predicted.argmax())
    if before >= sequence_length:
        return (
            f"begins after {before} tokens of prompt, beyond data.sequence_length "
            f"{sequence_length}; shorten the prompt, raise the length or remove the row"
        )
    return "is a single token with no next one to predict; lengthen it or remove the row"

"""The task of a causal language model: documents are texts, and losses predict the next token."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.data.rows import Rows, one_document_a_row, packed
from engine.data.sources import Documents, read_documents
from engine.data.tokens import Tokenized, TokenizedDocument, tokenize
from engine.models.causal_lm_loss import IGNORED
from engine.models.layers import checked_layers
from engine.models.load import LoadedCausalLM, load_causal_lm
from engine.runs.config import RunConfig, SourceConfig
from engine.runs.errors import UsageError
from engine.tasks.task import Origins, Prepared, QueryDocument


class RowDataset:
    """Rows without padding, as a :class:`~engine.training.data_stream.DataStream` reads them."""

    def __init__(self, rows: Rows) -> None:
        """Wrap ``rows``."""
        self.rows = rows
        self.lengths = rows.lengths

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        length = int(self.rows.lengths[index])
        columns = model_inputs(
            self.rows.input_ids[index, :length], self.rows.targets[index, :length]
        )
        return {**columns, "doc_ids": self.rows.document_ids[index, :length]}


def model_inputs(
    input_ids: NDArray[np.int32], targets: NDArray[np.bool_]
) -> dict[str, NDArray[np.int64]]:
    """A row as the model's input; labels are one position after the targets."""
    ids = input_ids.astype(np.int64)
    return {"input_ids": ids, "labels": np.where(np.append(False, targets[:-1]), ids, IGNORED)}


@dataclass(frozen=True)
class CausalLM:
    """The task of a config, with its model and its rows."""

    config: RunConfig
    model: LoadedCausalLM
    rows: Rows

    @classmethod
    def prepare(cls, config: RunConfig, device: torch.device) -> Prepared:
        """Read and tokenise a config's data, and load its model.

        Raises:
            UsageError: if the data or the model cannot be used.
        """
        documents = read_documents(config.data, "data")
        model = load_model(config, device)
        length, packing = config.data.sequence_length, config.data.packing
        tokenizer = model.tokenizer
        tokenized = tokenize(documents, tokenizer, None if packing else length)
        tokenized.check("data", "documents", config.data.strict)
        tokens = tokenized.tokens
        check_tokens(tokens, model, "data")
        pad = tokenizer.pad_token_id or 0
        if packing:
            rows = packed(tokens, length, tokenizer.eos_token_id, pad)
        else:
            rows = one_document_a_row(tokens, pad)
        return Prepared(cls(config, model, rows), _used(tokenized))

    @classmethod
    def restore(
        cls,
        config: RunConfig,
        arrays: Mapping[str, NDArray[Any]],
        device: torch.device,
        origins: Origins,
    ) -> "CausalLM":
        """The task of a prepared run, from its stored rows."""
        return cls(config, load_model(config, device, origins), Rows.from_arrays(arrays))

    @property
    def dataset(self) -> RowDataset:
        """The rows, for a stream."""
        return RowDataset(self.rows)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.model.tokenizer

    def read(self, source: SourceConfig, where: str) -> list[QueryDocument]:
        """The documents of a source of queries, tokenised and checked."""
        return self._query_documents(read_documents(source, where), where, "queries")

    def read_texts(self, documents: Documents) -> list[QueryDocument]:
        """Query documents of texts from the command line."""
        return self._query_documents(documents, "--text", "texts")

    def _query_documents(self, documents: Documents, where: str, noun: str) -> list[QueryDocument]:
        length = self.config.data.sequence_length
        tokenized = tokenize(documents, self.model.tokenizer, length)
        # Strict, because skipping a query would change the numbers of those after it.
        tokenized.check(where, noun, strict=True)
        check_tokens(tokenized.tokens, self.model, where)
        others = [n for n in documents.columns.column_names if n not in documents.text_columns]
        values = documents.columns.select(others).to_pylist()
        return [
            QueryDocument(
                text="".join(documents.texts(index)),
                inputs=dict(model_inputs(tokens.input_ids, tokens.targets)),
                losses=int(tokens.targets.sum()),
                columns=values[index] if others else {},
                tokens={
                    "input_ids": tokens.input_ids.tolist(),
                    "targets": tokens.targets.tolist(),
                    "cut_tokens": tokens.cut,
                    "text_end": tokens.text_end,
                },
            )
            for index, tokens in enumerate(tokenized.tokens)
        ]


def _used(tokenized: Tokenized) -> Documents:
    """The training's documents, with facts and warnings about skipped and cut ones."""
    warnings = tuple(tokenized.warnings("data", "documents"))
    return replace(tokenized.documents, facts=tokenized.facts(), warnings=warnings)


def load_model(
    config: RunConfig, device: torch.device, origins: Origins | None = None
) -> LoadedCausalLM:
    """The config's model before training.

    Raises:
        UsageError: if it cannot be loaded, or has too few positions.
    """
    settings, origins = config.model, origins or Origins()
    if origins.commit is not None:
        settings = settings.model_copy(update={"revision": origins.commit})
    model = load_causal_lm(
        settings,
        config.seed,
        device,
        force_dropout="dropout" in config.force,
        files=origins.model_files,
        length=config.data.sequence_length,
    )
    if config.training.activation_checkpointing:
        if model.dropout:
            raise UsageError(
                "training.activation_checkpointing: layers with dropout cannot be "
                "recomputed; set model.dropout: 0, or activation_checkpointing: false"
            )
        model = replace(model, layers=checked_layers(model.loss, config.model.path))
    limit = model.positions
    if limit is not None and config.data.sequence_length > limit:
        raise UsageError(
            f"data.sequence_length: {config.data.sequence_length} is more than the {limit} "
            f"positions of {config.model.path}; lower it"
        )
    return model


def check_tokens(tokenized: list[TokenizedDocument], model: LoadedCausalLM, where: str) -> None:
    """Check that the model has an embedding for every token id.

    Raises:
        UsageError: naming the largest id, if not.
    """
    largest = max(int(document.input_ids.max(initial=0)) for document in tokenized)
    if largest >= model.vocabulary:
        raise UsageError(
            f"{where}: the tokenizer gives token {largest}, but the model embeds only "
            f"{model.vocabulary} tokens; use the tokenizer that belongs to the model"
        )

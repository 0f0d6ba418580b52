"""The stored scores of a run, compared with the oracle on its stored rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from engine.attribution.prepare import prepare_run
from engine.data.rows import batch_order
from engine.models.load import load_causal_lm
from engine.runs.read_config import read_config
from engine.runs.score_store import ScoreReader
from engine.runs.tables import RowTable
from tests.exactness import oracle

Outcome = dict[str, Any]


LORA = {"rank": 3, "alpha": 5, "target_modules": ["c_attn", "wte"]}


@pytest.mark.parametrize(("packing", "lora"), [(False, None), (True, None), (False, LORA)])
def test_stored_scores(
    config: dict[str, Any], start: Callable[..., Outcome], packing: bool, lora: Any
) -> None:
    config["model"] |= {"dtype": "float64", "lora": lora}
    config["data"] |= {"packing": packing, "sequence_length": 9}
    config["training"] |= {"max_grad_norm": 0.5, "micro_batch_size": 2}
    config["training"]["lr_schedule"] = {"name": "one_cycle", "end_factor": 0.1}
    folder = Path(start(config)["path"])

    resolved = read_config(folder / "run_config.yaml")
    job, _ = prepare_run(resolved, torch.device("cpu"))
    model = load_causal_lm(resolved.model, resolved.seed, torch.device("cpu")).loss.model
    table = RowTable(folder / "rows.zarr")
    rows = oracle.Tokens(
        torch.from_numpy(table.input_ids()).long(), torch.from_numpy(table.targets())
    )
    training = oracle.Training(
        oracle.OptimizerSpec(**resolved.training.optimizer.model_dump()),
        job.rate,
        0.5,
        batch_order(len(rows), batch_size=3, epochs=2, seed=0, shuffle=True),
    )
    attribution = folder / "attributions" / "a0001"
    queries = pq.ParquetFile(attribution / "queries.parquet").read().to_pydict()
    reader = ScoreReader(attribution)
    for index in range(reader.queries):
        ids = torch.tensor([queries["input_ids"][index]])
        tokens = oracle.Tokens(ids, torch.tensor([queries["targets"][index]]))
        exact = oracle.exact(
            oracle.language_model_losses(model),
            oracle.leaves_of(model),
            rows,
            torch.ones(rows.ids.shape, dtype=torch.float64),
            training,
            tokens,
        )
        scores = reader.token_scores(index)
        error = np.linalg.norm(scores - exact.weights[0].numpy()) / np.linalg.norm(scores)
        assert error <= 1e-9
        assert queries["loss_after"][index] == pytest.approx(exact.phi.item(), rel=1e-12)

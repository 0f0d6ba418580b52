"""The head and the cross-entropy are one operation only where that holds in all of training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchopt
from torch import Tensor, nn

from engine import CausalLMLoss, DataStream, Trainer
from tests.exactness.tiny_models import CONFIGS, tiny_model

ROWS = [[3, 4, 5, 6, 7], [5, 6, 7, 8, 9, 10], [9, 10, 11], [15, 16, 17, 3]]


class Neutral(nn.Module):
    """A model whose head does one thing more, which at first does nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner = tiny_model("llama untied")
        self.config, self.kind = self.inner.config, kind
        shape = {"scale": (), "bias": (41,), "positions": (16, 1)}.get(kind, ())
        neutral = torch.zeros(shape) if kind in ("bias", "cap") else torch.ones(shape)
        self.extra = nn.Parameter(neutral.double(), requires_grad=kind != "frozen")

    @property
    def base_model(self) -> Any:
        return self.inner.model

    def get_output_embeddings(self) -> Any:
        return self.inner.lm_head

    def get_input_embeddings(self) -> Any:
        return self.inner.model.embed_tokens

    def forward(self, input_ids: Tensor, **options: Any) -> Any:
        if self.kind == "detached":
            hidden = self.inner.model(input_ids=input_ids, **options).last_hidden_state.detach()
            return type("Output", (), {"logits": self.inner.lm_head(hidden)})()
        output = self.inner(input_ids=input_ids, **options)
        if self.kind == "bias":
            output.logits = output.logits + self.extra
        elif self.kind == "positions":
            output.logits = output.logits * self.extra[: input_ids.shape[1]]
        elif self.kind == "long rows" and input_ids.shape[1] > 6:
            output.logits = output.logits * 0.5
        elif self.kind in ("scale", "frozen"):
            output.logits = output.logits * self.extra
        return output


def losses_of(model: nn.Module, rows: list[list[int]]) -> list[Tensor]:
    losses = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1]
        losses.append(nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum"))
    return losses


def trained_plainly(model: nn.Module, weights: Tensor) -> tuple[dict[str, Tensor], float]:
    """Parameters after two steps of plain SGD, and φ of the second row."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    for chosen in ((0, 1), (2, 3)):
        optimizer.zero_grad()
        losses = losses_of(model, [ROWS[row] for row in chosen])
        tokens = sum(len(ROWS[row]) - 1 for row in chosen)
        (torch.stack(losses) * weights[list(chosen)]).sum().div(tokens).backward()
        optimizer.step()
    phi = losses_of(model, [ROWS[1]])[0].item() / (len(ROWS[1]) - 1)
    return dict(model.named_parameters()), phi


KINDS = ["scale", "bias", "positions", "detached", "long rows"]


@pytest.mark.parametrize("kind", [*KINDS, "frozen"])
def test_what_does_nothing_at_first_is_trained(kind: str, tmp_path: Path) -> None:
    loss = CausalLMLoss(Neutral(kind))
    assert loss.plain_head == (kind == "frozen")
    stream = DataStream([{"input_ids": np.array(row)} for row in ROWS], 2)
    trainer, state = Trainer.initialize(loss, torchopt.sgd(0.3))
    end = trainer.train(state, stream, save_dir=tmp_path)
    ours = trainer.backward(tmp_path, stream, DataStream([{"input_ids": np.array(ROWS[1])}], 1))
    truth, phi = trained_plainly(Neutral(kind), torch.ones(4))
    assert ours.query_losses.item() == pytest.approx(phi, rel=1e-10)
    for name, value in end.params.items():
        expected = truth[name.removeprefix("model.")].detach()
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    if kind == "detached":
        return
    step = 1e-5
    for row in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[row] = step
        ends = [trained_plainly(Neutral(kind), torch.ones(4) + s)[1] for s in (shift, -shift)]
        difference = (ends[0] - ends[1]) / (2 * step)
        assert ours.weights[0, row].item() == pytest.approx(difference, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", CONFIGS)
def test_families_are_as_they_were(name: str) -> None:
    model = tiny_model(name)
    before = {n: (b, b.clone()) for n, b in model.named_parameters()}
    loss = CausalLMLoss(model)
    assert loss.plain_head == (name not in ("gemma2 soft cap", "phi head bias"))
    for n, parameter in model.named_parameters():
        assert parameter is before[n][0] and torch.equal(parameter, before[n][1])


def test_modes_stay_as_they_were() -> None:
    model = tiny_model("llama untied").train()
    model.model.norm.eval()
    CausalLMLoss(model)
    assert model.training and model.model.layers.training and not model.model.norm.training

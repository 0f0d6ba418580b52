"""Scores of modules that share, compile or fuse: against plain torch trainings with other weights.

The judge is a training loop of plain torch, with the module as it was written, its own parameters
and ``torch.optim.SGD``: differences of its results over small changes of the data weights.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchopt
from torch import Tensor, nn

from engine import DataStream, Trainer
from engine.models.module_tensors import ModelError
from tests.exactness.conftest import Agree

VOCABULARY, ROWS, WIDTH = 9, 6, 5
BATCHES = [(0, 1), (2, 3), (4, 5)]
SMALL, BOUND = 1e-5, 1e-6
TOKENS = torch.randint(
    0, VOCABULARY, (ROWS, WIDTH), generator=torch.Generator().manual_seed(0)
).numpy()


def losses_of(logits: Tensor, ids: Tensor) -> Tensor:
    """The mean loss of every row."""
    values = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return values.view(len(ids), -1).mean(1)


class Core(nn.Module):
    """An embedding, a layer between and a head."""

    def __init__(
        self, between: nn.Module | None = None, tied: bool = False, **options: Any
    ) -> None:
        super().__init__()
        # Settings need not be an object, as those of transformers are.
        self.config = {"width": 4}
        self.embed = nn.Embedding(VOCABULARY, 4, **options)
        self.between = between or nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.head = nn.Linear(4, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.between(self.embed(ids))
        return losses_of(self.head(hidden[0] if isinstance(hidden, tuple) else hidden), ids)


class TwoNames(nn.Module):
    """A core, and its head once more."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.head = nn.Linear(4, VOCABULARY, bias=False)
        self.core = Core(tied=tied)
        self.core.head = self.head
        if tied:
            self.head.weight = self.core.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.core(ids)  # type: ignore[no-any-return]


class SameView(Core):
    """Two Parameters that are the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = nn.Parameter(self.embed.weight.detach())


class Norms(nn.Module):
    """One batch norm under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(4)
        self.layers = nn.Sequential(nn.Linear(4, 4), self.first, nn.Tanh(), self.first)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(0, 1)).view(x.shape)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Attention by torch's own function."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inputs(x).view(*x.shape[:2], 2, 6).transpose(1, 2).chunk(3, dim=-1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + mixed.transpose(1, 2).flatten(2)


class Padded(nn.Module):
    """An encoder that would make nested tensors of rows with padding."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1]).expand(len(x), -1) > 3
        return self.encoder(x, src_key_padding_mask=padding)  # type: ignore[no-any-return]


class Scratch(nn.Module):
    """Writes a buffer before it reads it, as rotary embeddings for two lengths do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        self.scale.copy_(torch.full((4,), 1.0 + x.shape[1]))
        return x * self.scale


class Compiled(Core):
    """A core of which a part is compiled, unless it is the judge's."""

    def __init__(self, compiled: bool = True) -> None:
        super().__init__()
        if compiled:
            self.between = torch.compile(self.between)  # type: ignore[assignment]


MODULES: dict[str, Callable[[], nn.Module]] = {
    "plain": Core,
    "tied": lambda: Core(tied=True),
    "two names": lambda: TwoNames(tied=False),
    "two names, tied": lambda: TwoNames(tied=True),
    "two parameters of one memory": SameView,
    "batch norm under two names": lambda: Core(Norms()),
    "sdpa": lambda: Core(Attention()),
    "encoder layer": lambda: Core(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)),
    "encoder layer in eval mode": lambda: Core(
        nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
    ).eval(),
    "encoder with padding in eval mode": lambda: Core(Padded()).eval(),
    "lstm": lambda: Core(nn.LSTM(4, 4, batch_first=True)),
    "sparse embedding": lambda: Core(sparse=True),
    "compiled part": Compiled,
    "buffer written before it is read": lambda: Core(Scratch()),
}
JUDGES: dict[str, Callable[[], nn.Module]] = {
    "compiled part": lambda: Compiled(compiled=False),
    "sparse embedding": Core,
}


def make(of: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return of().double()


def retrained(model: nn.Module, weights: Tensor) -> float:
    """φ of the second row after training with these weights, by plain torch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    ids = torch.from_numpy(TOKENS)
    for rows in BATCHES:
        optimizer.zero_grad()
        ((model(ids[list(rows)]) * weights[list(rows)]).sum() / len(rows)).backward()
        optimizer.step()
    return float(model.eval()(ids[1:2]).item())


@pytest.mark.parametrize("name", MODULES)
def test_scores_are_those_of_plain_torch(name: str, agree: Agree, tmp_path: Path) -> None:
    stream = DataStream([{"ids": row} for row in TOKENS], 2)
    trainer, state = Trainer.initialize(make(MODULES[name]), torchopt.sgd(0.3))
    end = trainer.train(state, stream, save_dir=tmp_path)
    ours = trainer.backward(tmp_path, stream, DataStream([{"ids": TOKENS[1]}], 1))

    judge = JUDGES.get(name, MODULES[name])
    truth = make(judge)
    phi = retrained(truth, torch.ones(ROWS))
    assert ours.query_losses.item() == pytest.approx(phi, rel=1e-10)
    own = dict(truth.named_parameters())
    for parameter, value in end.params.items():
        expected = own[parameter.replace("_orig_mod.", "")]
        torch.testing.assert_close(value, expected.detach(), rtol=1e-10, atol=1e-12)
    differences = torch.zeros(1, ROWS, dtype=torch.float64)
    for row in range(ROWS):
        shift = torch.zeros(ROWS, dtype=torch.float64)
        shift[row] = SMALL
        values = [retrained(make(judge), torch.ones(ROWS) + s) for s in (shift, -shift)]
        differences[0, row] = (values[0] - values[1]) / (2 * SMALL)
    agree(f"unusual modules: {name}", ours.weights, differences, BOUND)


class Transposed(Core):
    """A parameter that is another's memory, read otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Parameter(self.embed.weight.detach().t())


class FrozenView(Core):
    """A frozen parameter that is a trained one's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = nn.Parameter(self.embed.weight.detach(), requires_grad=False)


class BufferView(Core):
    """A buffer that is a part of a parameter's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("start", self.embed.weight.detach()[:2])


class ParameterInList(Core):
    """Reads a parameter through a list."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [self.head.weight]

    def forward(self, ids: Tensor) -> Tensor:
        return losses_of(self.between(self.embed(ids)) @ self.weights[0].t(), ids)


class Complex(Core):
    """Has a parameter of complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.zeros(4, dtype=torch.complex64))


class Remembering(nn.Module):
    """What it gives depends on former batches."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean((0, 1)))
        return x - self.mean


class Lazy(Core):
    """Has no shapes yet."""

    def __init__(self) -> None:
        super().__init__(nn.LazyLinear(4))


class NotANumber(Core):
    """A parameter that is None."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.head.weight[2, 1] = torch.nan


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "transposed": (Transposed, r"turned and embed\.weight share|embed\.weight and turned share"),
    "frozen view": (FrozenView, r"embed\.weight and head\.weight share memory"),
    "buffer": (BufferView, r"start and embed\.weight share memory"),
    "kept aside": (ParameterInList, r"reads its parameter head\.weight through a reference"),
    "complex": (Complex, r"parameter phase is torch\.complex"),
    "remembering": (lambda: Core(Remembering()), r"changes its buffer between\.mean"),
    "lazy": (Lazy, r"between\.weight has no shape yet"),
    "not a number": (NotANumber, r"head\.weight contains values that are not finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_the_first_step(name: str) -> None:
    of, sentence = REFUSED[name]
    torch.manual_seed(1)
    model, steps = of(), []
    stream = DataStream([{"ids": row} for row in TOKENS], 2)
    with pytest.raises(ModelError, match=sentence):
        trainer, state = Trainer.initialize(model, torchopt.sgd(0.3))
        trainer.train(state, stream, observer=lambda event, /, **_: steps.append(event))
    assert not steps


def test_scripted_modules_are_refused() -> None:
    with pytest.raises(ModelError, match=r"ScriptModule, whose parameters cannot be replaced"):
        Trainer.initialize(torch.jit.script(nn.Linear(2, 2)), torchopt.sgd(0.3))


def test_a_module_stays_as_it_was() -> None:
    model = make(MODULES["two names, tied"])
    before = {name: (p, p.clone()) for name, p in model.named_parameters(remove_duplicate=False)}
    stream = DataStream([{"ids": row} for row in TOKENS], 2)
    trainer, state = Trainer.initialize(model, torchopt.sgd(0.3))
    trainer.train(state, stream)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])

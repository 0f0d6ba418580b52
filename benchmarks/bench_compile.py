"""Measure torch.compile: the parts of a step, compiled and eager, on one thread.

``python -m benchmarks.bench_compile [--model FOLDER] [--dtype float64]`` gives processor
seconds of the gradient of a training step, of second derivatives for some queries and of the
optimizer's VJP, the compile time of each, and its difference from the engine's numbers. Needs a
C++ compiler.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._inductor.compile_fx import compile_fx
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import AutoModelForCausalLM, masking_utils

from benchmarks.bench_step import _model
from benchmarks.mechanisms import plain_logits_loss
from engine.models.causal_lm_loss import CausalLMLoss
from engine.models.module_loss import ModuleLoss
from engine.replay.derivatives import first_derivatives, second_derivatives
from engine.replay.optimizers import Adam
from engine.replay.state import Batch, Params, TrainState

Run = Callable[[], Any]


def gradients(model: Any, params: Params, batch: Batch) -> tuple[Run, Run]:
    """∇_θ L by the engine, and with the model's body compiled, forward and backward."""
    loss = ModuleLoss(CausalLMLoss(model))
    state = TrainState(0, params, [])
    plain = lambda: first_derivatives(loss, state, params, batch)[1]  # noqa: E731
    body = model.base_model

    def compiled() -> Any:
        own = body.forward
        body.forward = fast
        try:
            return first_derivatives(loss, state, params, batch)[1]
        finally:
            body.forward = own

    fast = torch.compile(body.forward, dynamic=False)
    return plain, compiled


def second(model: Any, params: Params, batch: Batch, queries: int) -> tuple[Run, Run]:
    """∇_θ D_u L for some u by the engine, and traced and compiled as one graph."""
    loss, whole = ModuleLoss(CausalLMLoss(model)), plain_logits_loss(model)
    directions = [
        {name: p.sin() + number for name, p in params.items()} for number in range(queries)
    ]

    def plain() -> Params:
        sums = [{name: torch.zeros_like(p) for name, p in params.items()} for _ in directions]
        second_derivatives(loss, TrainState(0, params, []), batch, directions, sums)
        return {f"{n}": total[name] for n, total in enumerate(sums) for name in [next(iter(total))]}

    names = list(params)

    def products(*tensors: Tensor) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in tensors[: len(names)]]
        value = whole(dict(zip(names, leaves, strict=True)), batch)
        grads = torch.autograd.grad(value, leaves, create_graph=True)
        derivatives: list[Tensor] = []
        for number in range(queries):
            start = (number + 1) * len(names)
            along = tensors[start : start + len(names)]
            derivatives += torch.autograd.grad(grads, leaves, along, retain_graph=True)
        return derivatives

    inputs = [*params.values(), *(u[name] for u in directions for name in names)]
    ready: list[Any] = []

    def compiled() -> Params:
        if not ready:
            # Whether rows are packed depends on the data, which a trace cannot branch on.
            masking_utils.find_packed_sequence_indices = lambda positions: None
            traced = make_fx(products)(*inputs)
            ready.append(compile_fx(traced, inputs))
        results = ready[0](*inputs)
        return {f"{n}": results[n * len(names)] for n in range(queries)}

    return plain, compiled


def optimizer(queries: int) -> tuple[Run, Run]:
    """Adam's VJP of 16 M parameters, in pieces that fit the cache, as in the engine."""
    adam = Adam(lambda count: 1e-4, (0.9, 0.999), 1e-8, 1e-8, 0.01, True)
    size, pieces = 2**19, 32
    inputs = [tuple(torch.rand(size) for _ in range(4)) for _ in range(pieces)]
    ends = [
        [tuple(torch.rand(size) for _ in range(3)) for _ in range(queries)] for _ in range(pieces)
    ]
    directions = [[torch.empty(size) for _ in range(queries)] for _ in range(pieces)]

    def work(theta: Any, m: Any, v: Any, g: Any, ends: Any, directions: Any) -> None:
        shared = adam._shared(theta, m, v, g, 7)
        for end, u in zip(ends, directions, strict=True):
            adam._back(shared, end, u, 7)

    fast = torch.compile(work, dynamic=False)

    def all_of(function: Any) -> Run:
        def run() -> Params:
            for of in ends:
                for end in of:
                    for number, tensor in enumerate(end):
                        tensor.fill_(0.5 + number)
            with torch.no_grad():
                for given, of, u in zip(inputs, ends, directions, strict=True):
                    function(*given, of, u)
            return {"u": directions[0][0].clone()}

        return run

    return all_of(work), all_of(fast)


def report(name: str, pair: tuple[Run, Run], rounds: int) -> None:
    plain, compiled = pair
    expected = plain()
    began = _seconds()
    try:
        results = compiled()
    except Exception as error:
        print(f"{name:28}{type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True)
        return
    compile_seconds = _seconds() - began
    errors = [
        ((results[key] - value).norm() / value.norm()).item()
        for key, value in expected.items()
        if value.norm() > 0
    ]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, seconds in zip(pair, times, strict=True):
            start = time.process_time()
            run()
            seconds.append(time.process_time() - start)
    before, after = map(statistics.median, times)
    even = compile_seconds / (before - after) if before > after else float("inf")
    print(
        f"{name:28}{before:8.2f}{after:9.2f}{after / before:7.2f}{compile_seconds:9.0f}{even:8.0f}"
        f"{max(errors):10.1e}",
        flush=True,
    )


def _seconds() -> float:
    """Processor time of this process and of the compilers that it starts."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder of a pretrained model; else GPT-2 from scratch")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--parts", nargs="+", default=["gradient", "second", "optimizer"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch._inductor.config.compile_threads = 1
    torch.manual_seed(0)
    model = _model(None)
    if options.model:
        model = AutoModelForCausalLM.from_pretrained(options.model, attn_implementation="eager")
    model = model.to(getattr(torch, options.dtype)).eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(3, vocabulary, (options.rows, 128))
    dtype = next(model.parameters()).dtype
    weights = torch.ones(options.rows, 128, dtype=dtype)
    batch = Batch({"input_ids": ids, "labels": ids}, weights, options.rows * 127)
    params = ModuleLoss(CausalLMLoss(model)).parameters()
    print(
        f"{'':28}{'eager':>8}{'compiled':>9}{'ratio':>7}{'compile':>9}{'even at':>8}{'error':>10}"
    )
    if "gradient" in options.parts:
        report("gradient", gradients(model, params, batch), options.rounds)
    for queries in options.queries:
        if "second" in options.parts:
            pair = second(model, params, batch, queries)
            report(f"second derivatives, {queries}", pair, options.rounds)
        if "optimizer" in options.parts:
            report(f"VJP of Adam, {queries}", optimizer(queries), options.rounds)


if __name__ == "__main__":
    main()

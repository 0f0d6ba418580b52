"""What leaving out a share of queries' gradients costs in exactness, on real data.

A model is trained on the texts of a jsonl file and all queries are replayed, then for several
tolerances a basis of them: time, share outside, errors to expect and true errors of the scores.
Then, from the same replays by linearity, how well the shares of other inner products and the
gain that the basis shows predict the true errors at all ranks.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.attribution.prepare import new_job
from engine.attribution.prepared_run import Job
from engine.attribution.queries import measurement_batches, read_queries
from engine.replay.query_subspace import Subspace, gram_matrix, subspace_of
from engine.replay.state import Params, TrainState
from engine.runs.config import RunConfig

TOLERANCES = (0.9, 0.8, 0.7, 0.6, 0.5)


def share(options: argparse.Namespace) -> None:
    """Replay all queries, then bases of them, and compare."""
    with tempfile.TemporaryDirectory() as name:
        trained = _Trained(options, Path(name))
        began = time.perf_counter()
        exact = trained.replay(torch.eye(trained.count, dtype=torch.float64))
        full = time.perf_counter() - began
        began = time.perf_counter()
        grams = trained.grams()
        gram_seconds = time.perf_counter() - began
        each = gram_seconds / len(grams)
        print(f"{trained.count} queries in {full:.0f} s; a Gram matrix in {each:.0f} s")
        print(
            f"{'tolerance':>10}{'rank':>6}{'time':>7}{'outside':>15}{'expected':>15}{'true':>15}"
            f"{'documents':>15}{'rank corr.':>12}{'top 10':>8}"
        )
        for tolerance in TOLERANCES:
            subspace = subspace_of(grams["euclid"], tolerance, torch.float32)
            if subspace.rank == trained.count:
                print(f"{tolerance:10}{subspace.rank:6}   as many as queries: exact")
                continue
            began = time.perf_counter()
            basis = trained.replay(subspace.combinations)
            took = (time.perf_counter() - began) / full
            found = torch.einsum("ij,jrt->irt", subspace.coefficients, basis)
            errors = subspace.errors(_lengths(basis), _lengths(found))
            ours, theirs = trained.by_document(found), trained.by_document(exact)
            print(
                f"{tolerance:10}{subspace.rank:6}{took:7.2f}{_pair(subspace.outside):>15}"
                f"{_pair(errors):>15}{_pair(_errors(found, exact)):>15}"
                f"{_pair(_errors(ours, theirs)):>15}"
                f"{_rank_correlation(ours, theirs):12.2f}{_top(ours, theirs):8.2f}", flush=True,
            )  # fmt: skip
        predictions(grams, exact)


def predictions(grams: dict[str, Tensor], exact: Tensor) -> None:
    """How well what an inner product leaves outside predicts the true errors, at every rank."""
    print(f"{'predicted by':24}{'true/predicted':>15}{'5–95 %':>14}{'correlation':>13}")
    names = [*grams, "gain of the basis"]
    for name in names:
        predicted, true = [], []
        for rank in range(1, len(exact)):
            subspace = _of_rank(grams.get(name, grams["euclid"]), rank)
            basis = torch.einsum("ji,irt->jrt", subspace.combinations, exact)
            found = torch.einsum("ij,jrt->irt", subspace.coefficients, basis)
            learned = subspace.errors(_lengths(basis), _lengths(found))
            predicted.append(subspace.outside if name in grams else learned)
            true.append(_errors(found, exact))
        x, y = torch.cat(predicted), torch.cat(true)
        x, y = x[x > 1e-6].log(), y[x > 1e-6].log()
        low, middle, high = (
            (y - x).quantile(torch.tensor([0.05, 0.5, 0.95]).double()).exp().tolist()
        )
        correlation = torch.corrcoef(torch.stack([x, y]))[0, 1].item()
        print(f"{name:24}{middle:15.2f}{f'{low:.2f}–{high:.2f}':>14}{correlation:13.2f}")


class _Trained:
    """A model trained on real texts, with queries to ask of it."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        config = RunConfig.model_validate(
            {
                "model": {"path": options.model},
                "data": {"path": options.train, "sequence_length": options.tokens},
                "training": {"batch_size": options.rows},
                "queries": {"path": options.queries},
            }
        )
        self.job: Job = new_job(config, torch.device("cpu"))[0]
        assert config.queries is not None
        self.measurements = measurement_batches(read_queries(config.queries, self.job), self.job)
        self.count, self.folder = len(self.measurements), folder / "trajectory"
        self.stream = self.job.stream("token")
        trainer = self.job.trainer
        self.final: TrainState = trainer.train(
            self.job.start, self.stream, save_dir=self.folder, schedule="all"
        )

    def replay(self, combinations: Tensor) -> Tensor:
        """(combination, row, token) Scores of combinations of the queries, float64."""
        trainer, found = self.job.trainer, []
        reader = trainer.open(self.folder)
        for rows in combinations.split(8):
            state = trainer.begin_replay(reader, self.stream, self.measurements, rows)
            trainer.replay(reader, self.stream, state)
            found.append(state.scores.double())
        return torch.cat(found)

    def grams(self) -> dict[str, Tensor]:
        """Gram matrices of the queries' gradients under several inner products."""
        adam = self.job.config.training.optimizer
        tensors = self.job.trainer.step.stage.state_tensors(self.final.optimizer)
        debias = 1 - adam.betas[1] ** len(self.stream)
        second = {n: tensors[f"0.1/{n}"].view_as(p) / debias for n, p in self.final.params.items()}
        metric = {
            n: ((v + adam.eps_root).sqrt() + adam.eps).reciprocal() for n, v in second.items()
        }
        powers = {"euclid": 0.0, "Adam's metric, root": 0.25, "Adam's metric": 0.5,
                  "Adam's metric, squared": 1.0, "second moment, root": -0.5}  # fmt: skip

        def gradient(power: float) -> Callable[[int], Params]:
            def of(query: int) -> Params:
                _, grads = self.job.trainer.measuring.gradient(self.final, self.measurements[query])
                return {n: g * metric[n] ** power for n, g in grads.items()} if power else grads

            return of

        return {n: gram_matrix(gradient(power), self.count, 16) for n, power in powers.items()}

    def by_document(self, scores: Tensor) -> Tensor:
        """(query, document) Sums over the tokens of each document."""
        owners = torch.from_numpy(self.job.rows.document_ids).flatten()
        sums = torch.zeros(len(scores), self.job.documents, dtype=torch.float64)
        return sums.index_add_(1, owners.clamp(min=0), scores.flatten(1) * (owners >= 0))


def _of_rank(gram: Tensor, rank: int) -> Subspace:
    """The subspace of a rank, by bisection of the tolerance."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if subspace_of(gram, middle).rank > rank else (low, middle)
    return subspace_of(gram, high)


def _lengths(scores: Tensor) -> Tensor:
    return scores.flatten(1).norm(dim=1)


def _errors(found: Tensor, exact: Tensor) -> Tensor:
    return _lengths(found - exact) / _lengths(exact)


def _pair(values: Tensor) -> str:
    return f"{values.median():.3f}/{values.max():.3f}"


def _rank_correlation(ours: Tensor, theirs: Tensor) -> float:
    ranks = [values.argsort(1).argsort(1).double() for values in (ours, theirs)]
    pairs = zip(*ranks, strict=True)
    return float(np.mean([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]))


def _top(ours: Tensor, theirs: Tensor, count: int = 10) -> float:
    """Share of the strongest documents in common."""
    chosen = [[set(row.tolist()) for row in x.abs().topk(count).indices] for x in (ours, theirs)]
    return float(np.mean([len(a & b) / count for a, b in zip(*chosen, strict=True)]))

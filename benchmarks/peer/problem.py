"""The input of both tools: a model, documents and queries, in files that both can read.

``python -m benchmarks.peer.problem FOLDER …`` writes the model's folder (its head tied to the
embedding or not, its dropout 0), ``train.jsonl`` for the peer, ``in-order.jsonl`` for magic, which
does not shuffle here (the same documents in the peer's order), and files of queries.

Both tools tokenise the texts themselves, so documents are short enough for both. The module runs in
both environments, so it imports only packages of both.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

PASSAGES = Path(__file__).parents[3] / "sample_configs" / "demo" / "passages.jsonl"
FIRST, MORE = "queries", "more-queries"
TRAIN, IN_ORDER = "train.jsonl", "in-order.jsonl"


@dataclass(frozen=True)
class Problem:
    """One training and its queries."""

    batch_size: int
    tokens: int
    steps: int
    queries: int
    dtype: str = "float32"
    seed: int = 0
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 1e-8
    lora_rank: int = 0
    lora_modules: tuple[str, ...] = ()

    @property
    def documents(self) -> int:
        """One document per row, each used once."""
        return self.batch_size * self.steps

    def write(self, folder: Path) -> None:
        (folder / "problem.json").write_text(json.dumps(asdict(self)))


def read_problem(folder: Path) -> Problem:
    values = json.loads((folder / "problem.json").read_text())
    return Problem(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def queries_file(folder: Path, count: int, which: str = FIRST) -> Path:
    return folder / f"{which}-{count}.jsonl"


def read_texts(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.read_text().splitlines()]


def tokens_of(folder: Path, file: Path) -> list[list[int]]:
    """The tokens of every document of a file, as the model's tokenizer gives them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return [tokenizer(text).input_ids for text in read_texts(file)]


def order_of(problem: Problem) -> list[int]:
    """The documents in the order in which the peer trains on them in its first epoch."""
    from datasets import Dataset

    numbers = Dataset.from_dict({"number": range(problem.documents)})
    return list(numbers.shuffle(seed=problem.seed)["number"])


def write_documents(problem: Problem, folder: Path, source: Path) -> None:
    """Cut running text into documents of at most ``problem.tokens`` tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    texts = _cut(tokenizer, " ".join(read_texts(source)).split(), problem.tokens)
    train = list(islice(texts, problem.documents))
    _write(folder / TRAIN, train)
    _write(folder / IN_ORDER, [train[number] for number in order_of(problem)])
    for which in (FIRST, MORE):
        chosen = list(islice(texts, problem.queries))
        for count in {1, problem.queries}:
            _write(queries_file(folder, count, which), chosen[:count])


def _cut(tokenizer: Any, words: list[str], most: int) -> Iterator[str]:
    taken: list[str] = []
    # The length of the text is no multiple of a document's, so a second pass over the text
    # gives other documents.
    for word in cycle(words):
        if len(tokenizer(" ".join([*taken, word])).input_ids) > most:
            yield " ".join(taken)
            taken = []
        taken.append(word)


def _write(file: Path, texts: Iterable[str]) -> None:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def write_model(path: str | None, head: str, folder: Path) -> None:
    """A model's folder with weights and tokenizer, its head tied or not, its dropout 0."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    if path is None:
        path = str(PASSAGES.parent / "model")
        config = AutoConfig.from_pretrained(path, n_embd=256, n_layer=4, initializer_range=0.02)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for name in model.config.to_dict():
        if name.endswith(("_dropout", "_pdrop")):
            setattr(model.config, name, 0.0)
    if head == "untied":
        weight = model.get_output_embeddings().weight
        model.get_output_embeddings().weight = torch.nn.Parameter(weight.detach().clone())
        model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert tied == (head == "tied"), f"the head of {path} cannot be {head}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="folder of a model; default: a small GPT-2")
    parser.add_argument("--head", choices=["tied", "untied"], required=True)
    parser.add_argument("--text", type=Path, default=PASSAGES, help="jsonl of texts to cut")
    parser.add_argument("--problem", type=json.loads, required=True, help="fields of Problem")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    problem = Problem(**options.problem)
    problem.write(options.folder)
    write_model(options.model, options.head, options.folder / "model")
    write_documents(problem, options.folder, options.text)


if __name__ == "__main__":
    main()

"""Create the data of the CPU-sized settings from public collections in one folder.

``python -m benchmarks.settings_data COLLECTIONS OUT`` writes into ``OUT`` the
files that ``sample_configs/*-cpu.yaml`` name under ``data/``. It reads from ``COLLECTIONS``:
``images/mnist`` and ``images/cifar10`` (as published), ``models/stories15M`` (a model folder),
``text/wiki100.jsonl.gz`` (whole articles: ``text``) and
``instruct/natural_instructions_v1_subset.jsonl.gz`` (``task``, ``input``, ``target``).
"""

import argparse
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = 96
"""Length of a passage; articles are cut into consecutive passages."""
PASSAGES, QUERY_ARTICLES = 768, 10
HELD_OUT = (
    "subtask037_qasc_generate_related_fact",
    "subtask041_qasc_answer_generation",
    "subtask046_miscellaenous_question_typing",
    "subtask003_mctaco_question_generation_event_duration",
    "subtask050_multirc_answerability",
)
"""Tasks without training rows: two questions each, after four solved examples."""
INSTRUCTIONS, SHOTS = 256, 4
LONGEST, LONGEST_QUERY = 260, 700
"""Characters of a training row, and of a question with its examples."""

Row = dict[str, str]


def prepare(collections: Path, out: Path) -> None:
    """Write the data of all collections that exist; link to files that are used unchanged."""
    out.mkdir(parents=True, exist_ok=True)
    for name, where in (("mnist", "images/mnist"), ("cifar10", "images/cifar10"),
                        ("stories15M", "models/stories15M")):  # fmt: skip
        if not (out / name).exists():
            (out / name).symlink_to((collections / where).resolve())
    articles = [row["text"] for row in read_rows(collections / "text/wiki100.jsonl.gz")]
    train, queries = passages(articles, out / "stories15M")
    write_rows(out / "wiki100", train=train, queries=queries)
    rows = read_rows(collections / "instruct/natural_instructions_v1_subset.jsonl.gz")
    train, queries = instructions(list(rows))
    write_rows(out / "instructions", train=train, queries=queries)


def passages(articles: list[str], tokenizer: Path) -> tuple[list[Row], list[Row]]:
    """Training passages, and query passages of other articles."""
    from transformers import AutoTokenizer

    cut = AutoTokenizer.from_pretrained(tokenizer)
    random = np.random.default_rng(0)
    train, queries = [], []
    for place, article in enumerate(random.permutation(len(articles))):
        text = articles[article]
        offsets = cut(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
        starts = range(0, len(offsets) - TOKENS, TOKENS)
        cut_out = [{"text": text[offsets[s][0] : offsets[s + TOKENS - 1][0]]} for s in starts]
        (queries if place < QUERY_ARTICLES else train).extend(
            cut_out[:1] if place < QUERY_ARTICLES else cut_out
        )
    chosen = random.permutation(len(train))[:PASSAGES]
    return [train[index] for index in chosen], queries


def instructions(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Training rows of some tasks, and questions of other tasks after examples."""
    random = np.random.default_rng(0)
    short = [r for r in rows if r["task"] not in HELD_OUT
             and len(r["input"]) + len(r["target"]) < LONGEST]  # fmt: skip
    chosen = random.permutation(len(short))[:INSTRUCTIONS]
    queries = []
    for task in HELD_OUT:
        of_task = sorted((r for r in rows if r["task"] == task), key=_length)
        for first in (0, SHOTS + 1):
            *shots, question = of_task[first : first + SHOTS + 1]
            before = "".join(_prompt(shot) + shot["target"] + "\n\n" for shot in shots)
            queries.append({"prompt": before + _prompt(question), "completion": question["target"]})
    assert all(len(row["prompt"]) < LONGEST_QUERY for row in queries)
    trained = [short[index] for index in chosen]
    return [{"prompt": _prompt(r), "completion": r["target"]} for r in trained], queries


def _prompt(row: Row) -> str:
    return f"Input: {row['input']}\nOutput: "


def _length(row: Row) -> int:
    return len(row["input"]) + len(row["target"])


def read_rows(file: Path) -> Iterator[Any]:
    """The objects of a gzipped file of JSON lines."""
    with gzip.open(file, "rt") as lines:
        yield from map(json.loads, lines)


def write_rows(folder: Path, **parts: Iterable[Row]) -> None:
    """Write each part as a file of JSON lines."""
    folder.mkdir(exist_ok=True)
    for name, rows in parts.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collections", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    prepare(given.collections, given.out)

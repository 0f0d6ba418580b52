"""Make the demo's text collection and its small model folder from plain-text books.

    python make_collection.py FOLDER_OF_BOOKS

writes ``passages.jsonl``, ``queries.jsonl`` and ``model/`` beside this script. The folder holds the
files that ``BOOKS`` names. Nothing is drawn at random: the same books give the same bytes.

A query's sentences are taken out of its book first; what remains is cut into passages of
consecutive whole sentences that share no text, so no passage holds any of a query.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PASSAGES_PER_BOOK = 50
PASSAGE_WORDS = range(60, 81)
QUERY_WORDS = 40
UNIT_WORDS = 50
VOCABULARY = 1024
EOS = "<|endoftext|>"


class Book(NamedTuple):
    """A book, where in its file to begin, how many words to take from and what its query holds."""

    id: str
    title: str
    author: str
    file: str
    opening: str
    words: int = 30_000
    query: str | None = None


BOOKS = (
    Book(
        "alice",
        "Alice's Adventures in Wonderland",
        "Lewis Carroll",
        "carroll-alice.txt",
        "Alice was beginning",
        query="grin without a cat",
    ),
    Book("emma", "Emma", "Jane Austen", "austen-emma.txt", "Emma Woodhouse, handsome"),
    Book(
        "luke",
        "The Gospel of Luke (King James Bible)",
        "King James translators",
        "bible-kjv.txt",
        "1:1 Forasmuch as many",
        words=25_000,
        query="went down from Jerusalem to Jericho",
    ),
    Book(
        "leaves-of-grass",
        "Leaves of Grass",
        "Walt Whitman",
        "whitman-leaves.txt",
        "Afoot and light-hearted",
    ),
    Book(
        "macbeth",
        "Macbeth",
        "William Shakespeare",
        "shakespeare-macbeth.txt",
        "Thunder and Lightning.",
        query="To morrow, and to morrow",
    ),
    Book(
        "moby-dick",
        "Moby-Dick",
        "Herman Melville",
        "melville-moby_dick.txt",
        "I, Ishmael, was one of that crew",
        query="All that most maddens",
    ),
    Book(
        "paradise-lost",
        "Paradise Lost",
        "John Milton",
        "milton-paradise.txt",
        "Of Man's first disobedience",
    ),
    Book(
        "thursday",
        "The Man Who Was Thursday",
        "G. K. Chesterton",
        "chesterton-thursday.txt",
        "THE suburb of Saffron Park",
        words=28_000,
    ),
)

HEADING = re.compile(r"(chapter|book|volume|actus|sc[oe]+na|finis)\b|[\[}(*]", re.IGNORECASE)
NUMBERING = re.compile(r"\b\d+:\d+\b|^\s*\d+\s+(?=[A-Z])")
CLOSED = re.compile(r"[.!?][\"')]*$")
SENTENCE_END = re.compile(
    r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)"
    r"(?:(?<=[.!?])|(?<=[.!?][\"')]))\s+(?=[\"'(]?[A-Z])"
)


def count_words(text: str) -> int:
    """The number of blank-separated words."""
    return len(text.split())


def paragraphs(book: Book, folder: Path) -> Iterator[str | None]:
    """The paragraphs of a book on one line each; None where a heading interrupts the text."""
    text = (folder / book.file).read_text(encoding="ascii")
    text = text[text.index(book.opening) :].replace("_", "").replace("`", "'")
    taken = 0
    for block in re.split(r"\n\s*\n", text):
        line = " ".join(NUMBERING.sub(" ", block).split())
        if HEADING.match(line) or not re.search(r"[a-z]", line):
            yield None
            continue
        # The folio text lacks the full stop wherever another speaker follows.
        yield line if re.search(r"[^\w]$", line) else line + "."
        taken += count_words(line)
        if taken > book.words:
            return


def units(book: Book, folder: Path) -> list[str | None]:
    """Short paragraphs and the sentences of long ones, in order; None where the text breaks off."""
    result: list[str | None] = []
    for paragraph in paragraphs(book, folder):
        if paragraph is None or count_words(paragraph) <= UNIT_WORDS:
            result.append(paragraph)
        else:
            result += SENTENCE_END.split(paragraph)
    return result


def passages(stream: list[str | None]) -> Iterator[str]:
    """Consecutive units joined to passages of a fitting length that end with a sentence."""
    held: list[str] = []
    for unit in stream:
        if unit is None:
            held = []
            continue
        held.append(unit)
        text = " ".join(held)
        words = count_words(text)
        if words in PASSAGE_WORDS and CLOSED.search(text):
            yield text
            held = []
        elif words >= PASSAGE_WORDS.stop:
            held = []


def take_query(stream: list[str | None], phrase: str) -> str:
    """The units from the one with ``phrase`` on, until long enough; in ``stream`` a gap is left."""
    first = next((i for i, unit in enumerate(stream) if unit and phrase in unit), None)
    if first is None:
        raise SystemExit(f"no sentence has '{phrase}'")
    taken: list[str] = []
    for index in range(first, len(stream)):
        unit, stream[index] = stream[index], None
        if unit is None:
            break
        taken.append(unit)
        if count_words(" ".join(taken)) >= QUERY_WORDS:
            return " ".join(taken)
    raise SystemExit(f"the text breaks off too soon after '{phrase}'")


def choose(book: Book, folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The training passages of a book, evenly spread over it, and its query, if it has one."""
    labels = {"book": book.title, "author": book.author}
    stream = units(book, folder)
    queries = []
    if book.query is not None:
        text = take_query(stream, book.query)
        queries.append({"id": f"{book.id}-query", **labels, "text": text})
    found = list(passages(stream))
    if len(found) < PASSAGES_PER_BOOK:
        raise SystemExit(f"{book.file}: only {len(found)} passages of a fitting length")
    picks = [found[i * len(found) // PASSAGES_PER_BOOK] for i in range(PASSAGES_PER_BOOK)]
    training = [
        {"id": f"{book.id}-{number:03d}", **labels, "text": text}
        for number, text in enumerate(picks)
    ]
    return training, queries


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_model(folder: Path, texts: list[str]) -> None:
    """A byte-level BPE tokenizer trained on ``texts`` and the config of a small GPT-2."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=[EOS], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=EOS, eos_token=EOS
    )
    tokenizer.save_pretrained(folder)
    eos = tokenizer.convert_tokens_to_ids(EOS)
    GPT2Config(
        architectures=["GPT2LMHeadModel"],
        vocab_size=VOCABULARY,
        n_positions=160,
        n_embd=64,
        n_layer=2,
        n_head=4,
        # The usual 0.02 is for wide models: here it would spend half of the training on growing.
        initializer_range=0.1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        summary_first_dropout=0.0,
        bos_token_id=eos,
        eos_token_id=eos,
        tie_word_embeddings=True,
    ).save_pretrained(folder)


def main(folder: Path) -> None:
    """Write the collection of the books in ``folder``."""
    training: list[dict[str, str]] = []
    queries: list[dict[str, str]] = []
    for book in BOOKS:
        of_training, of_queries = choose(book, folder)
        training += of_training
        queries += of_queries
    write_jsonl(HERE / "passages.jsonl", training)
    write_jsonl(HERE / "queries.jsonl", queries)
    write_model(HERE / "model", [row["text"] for row in training])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python make_collection.py FOLDER_OF_BOOKS")
    main(Path(sys.argv[1]))

"""Words that a query and a document share in a row: a resemblance, which is no influence."""

import re

_WORD = re.compile(r"\w+")
LEAST_WORDS = 3


def shared_runs(query: str, document: str, most: int = 3) -> list[str]:
    """The longest runs of words that stand in both texts, as the document writes them.

    Runs of fewer than three words, and those inside a longer one, are left out.
    """
    asked = [match[0].lower() for match in _WORD.finditer(query)]
    matches = list(_WORD.finditer(document))
    words = [match[0].lower() for match in matches]
    starts: dict[tuple[str, ...], list[int]] = {}
    for i in range(len(asked) - LEAST_WORDS + 1):
        starts.setdefault(tuple(asked[i : i + LEAST_WORDS]), []).append(i)
    runs: list[tuple[int, int]] = []
    here = 0
    while here <= len(words) - LEAST_WORDS:
        places = starts.get(tuple(words[here : here + LEAST_WORDS]), [])
        length = max((_length(asked, i, words, here) for i in places), default=0)
        if length:
            runs.append((length, here))
        here += max(1, length)
    runs.sort(key=lambda run: -run[0])
    kept: list[str] = []
    told: list[str] = []
    for length, at in runs:
        run = f" {' '.join(words[at : at + length])} "
        if not any(run in longer for longer in told):
            told.append(run)
            kept.append(document[matches[at].start() : matches[at + length - 1].end()])
    return kept[:most]


def _length(first: list[str], i: int, second: list[str], j: int) -> int:
    """How many words are the same from the ``i``-th and the ``j``-th on."""
    most = min(len(first) - i, len(second) - j)
    return next((n for n in range(most) if first[i + n] != second[j + n]), most)

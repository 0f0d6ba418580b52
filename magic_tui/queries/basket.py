"""The texts that will be asked together, and the command that asks them."""

import shlex
from collections.abc import Iterator, Sequence

from magic_tui.queries.candidates import Candidate

REDUCTIONS = ("none", "mean", "sum")


class Basket:
    """Texts in the order they were put in, none of them twice."""

    def __init__(self) -> None:
        """An empty one."""
        self._texts: dict[tuple[str, str], Candidate] = {}
        self.reduction = REDUCTIONS[0]

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(list(self._texts.values()))

    def __contains__(self, candidate: Candidate) -> bool:
        return candidate.key in self._texts

    @property
    def queries(self) -> int:
        """How many measurements its texts make."""
        return len(self) if self.reduction == "none" else min(1, len(self))

    def add(self, candidate: Candidate) -> None:
        """Put a text in unless it is there."""
        self._texts.setdefault(candidate.key, candidate)

    def toggle(self, candidate: Candidate) -> None:
        """Put a text in, or take it out."""
        if self._texts.pop(candidate.key, None) is None:
            self._texts[candidate.key] = candidate

    def clear(self) -> None:
        """Take everything out."""
        self._texts.clear()

    def turn_reduction(self) -> None:
        """Each text alone, then the mean of all, then their sum."""
        place = REDUCTIONS.index(self.reduction) + 1
        self.reduction = REDUCTIONS[place % len(REDUCTIONS)]


def attribute_command(
    run: str, texts: Sequence[Candidate], reduction: str, runs_dir: str | None
) -> str:
    """``magic attribute`` for some texts; for texts yet to be given if there are none."""
    words = ["magic", "attribute", run]
    prompted = any(each.prompt for each in texts)
    for each in texts:
        if prompted:
            words += ["--prompt", each.prompt]
        words += ["--text", each.text.removeprefix(each.prompt)]
    if reduction != "none":
        words += ["--reduction", reduction]
    if runs_dir is not None:
        words += ["--runs-dir", runs_dir]
    return shlex.join(words) + ("" if texts else ' --text "…"')

"""How progress leaves the numerics: facts go to an observer, which may record or show them."""

from typing import Any, Protocol


class Observer(Protocol):
    """Receives facts as they happen; must neither block for long nor touch the numbers."""

    def __call__(self, event: str, /, **facts: Any) -> None:
        """Take one fact; values are plain Python numbers, strings and lists."""


def ignore(event: str, /, **facts: Any) -> None:
    """The observer that drops everything."""

"""Texts that try to steer a terminal, and a check that none of them reaches it."""

import unicodedata
from typing import Any

TEXTS = [
    "\x1b[31mred\x1b[0m \x1b]52;c;aGVsbG8=\x07clipboard",
    "\x1b]0;title\x07\x1b[2J\x1b[H\x1bc",
    "\x9b31m eight bit \x85\x90dcs\x9c",
    "one\rtwo\x08\x08three\x7f\x00end",
    "right \u202eto left\u202c \u2066isolated\u2069",
    "zero\u200bwidth\u200d\ufeff and \u2028lines\u2029",
    "[bold red]markup[/] [@click=app.quit]click[/] $primary",
    "a" + "\u0301" * 60 + " 語" * 30,
    "\udcff lone surrogates \ud800",
]


def unsafe_in(app: Any) -> list[str]:
    """Characters on screen that could steer a terminal."""
    text = "".join(
        segment.text for strip in app.screen._compositor.render_strips() for segment in strip
    )
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]

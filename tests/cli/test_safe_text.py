import unicodedata

import pytest
from rich.cells import cell_len

from engine.runs.safe_text import one_line, safe_text, same_length

HOSTILE = {
    "\x1b[31mred": "␛[31mred",
    "\x1b]52;c;cHduZWQ=\x07": "␛]52;c;cHduZWQ=␇",
    "a\tb": "a b",
    "a\nb\rc": "a␊b␍c",
    "\x7f": "␡",
    "\x00": "␀",
    "\x9b2J": "<U+009B>2J",
    "\x85": "<U+0085>",
    "abc\u202edef": "abc<U+202E>def",
    "\u2066x\u2069": "<U+2066>x<U+2069>",
    "zero\u200bwidth\ufeff": "zero<U+200B>width<U+FEFF>",
    "\ud800": "<U+D800>",
    "line\u2028end": "line<U+2028>end",
    "\U000e0041": "<U+E0041>",
}


@pytest.mark.parametrize(("text", "safe"), HOSTILE.items())
def test_each_hostile_character_becomes_a_visible_sign(text: str, safe: str) -> None:
    assert safe_text(text) == safe


@pytest.mark.parametrize("text", ["plain [red]text[/red]", "wörld 日本 🎉", "a\u0301", ""])
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert safe_text(text) == text


def test_no_character_that_controls_a_terminal_is_printed() -> None:
    steering = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    text = "".join(c for c in map(chr, range(0x110000)) if unicodedata.category(c) in steering)
    assert len(text) > 2200
    assert {unicodedata.category(c) for c in set(safe_text(text))}.isdisjoint(steering)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("I \u2764\ufe0f you", "I \u2764 you"),
        ("1\ufe0f\u20e3 #\u20e3", "1 #"),
        ("\U0001f469\U0001f3fd ok", "\U0001f469 ok"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f468\U0001f469\U0001f467"),
        ("\U0001f469\U0001f3fd\u200d\u2695\ufe0f", "\U0001f469\u2695"),
        ("\U0001f1e9\U0001f1ea", "DE"),
        ("a\u200db", "a<U+200D>b"),
        ("\U0001f469\u200db", "\U0001f469<U+200D>b"),
    ],
)
def test_emoji_are_shown_in_a_form_whose_width_is_not_disputed(text: str, safe: str) -> None:
    assert safe_text(text) == safe
    assert cell_len(safe) == sum(map(cell_len, safe))
    assert len(same_length(text)) == len(text)


def test_newlines_stay_only_on_request() -> None:
    assert safe_text("a\nb\r\nc\rd\x1b", keep_newlines=True) == "a\nb\nc␍d␛"


def test_one_line_joins_all_white_space() -> None:
    assert one_line("  a \n\n b\t\u2028c \x1b") == "a b c ␛"

import pytest

from magic_tui.text.bars import signed_bar
from magic_tui.text.cells import fit, join_that_fit, pad, wrap
from magic_tui.text.numbers import (
    age_text,
    bytes_text,
    counted,
    duration_text,
    score_text,
    share_text,
)


def test_the_largest_value_fills_its_side() -> None:
    assert signed_bar(-2.0, 2.0, 4) == ("████", "    ")
    assert signed_bar(2.0, 2.0, 4) == ("    ", "████")


def test_helpful_and_harmful_bars_mirror_each_other() -> None:
    mirror = str.maketrans("▐▌", "▌▐")
    for value in (0.01, 0.3, 0.5, 0.71, 0.99):
        left, _ = signed_bar(-value, 1.0, 7)
        _, right = signed_bar(value, 1.0, 7)
        assert left == right[::-1].translate(mirror)


def test_only_zero_and_nan_have_no_bar() -> None:
    assert signed_bar(1e-30, 1.0, 4) == ("    ", "▌   ")
    assert signed_bar(0.0, 1.0, 4) == signed_bar(float("nan"), 1.0, 4) == (" " * 4, " " * 4)
    assert signed_bar(float("-inf"), float("inf"), 4) == ("████", "    ")


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("ab", 0, ""),
    ],
)
def test_fit_counts_cells(text: str, width: int, expected: str) -> None:
    assert fit(text, width) == expected


def test_pad_and_wrap_and_join() -> None:
    assert pad("日", 4) == "日  "
    assert wrap("one two three four", 9, 5) == ["one two", "three", "four"]
    assert wrap("one two three four", 9, 2) == ["one two", "three fo…"]
    assert wrap("a incomprehensibilities", 9, 9) == ["a", "incompreh", "ensibilit", "ies"]
    assert wrap("日本語日本語", 5, 9) == ["日本", "語日", "本語"]
    assert wrap("", 9, 2) == []
    assert join_that_fit(["aa", "bb", "cc"], 6) == "aa  bb"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (score_text(-1.2345e-5), "-1.234e-05"),
        (bytes_text(0), "0 B"),
        (bytes_text(999_600), "1.0 MB"),
        (bytes_text(12_345_678), "12 MB"),
        (bytes_text(None), "–"),
        (duration_text(0.44), "0.4 s"),
        (duration_text(59.6), "1:00"),
        (duration_text(3723), "1:02:03"),
        (duration_text(100_000), "1 d 3 h"),
        (duration_text(float("inf")), "–"),
        (age_text(30), "now"),
        (age_text(7200), "2 h"),
        (share_text(0.0043), "0.4 %"),
        (share_text(0.314), "31 %"),
        (counted(1, "query"), "1 query"),
        (counted(1200, "query"), "1,200 queries"),
        (counted(2, "pass"), "2 passes"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    assert text == expected

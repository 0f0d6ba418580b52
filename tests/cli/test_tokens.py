from rich.cells import cell_len

from magic_tui.text.tokens import Shade, level_of, mark_text, wrap_shades


def text_of(lines: list[list[Shade]]) -> list[str]:
    return ["".join(shade.text for shade in line) for line in lines]


def test_levels_are_symmetric_and_relative_to_the_strongest() -> None:
    scores = [0.0, 0.09, 0.1, 0.29, 0.3, 0.59, 0.6, 1.0]
    assert [level_of(s, 1.0) for s in scores] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [level_of(-s, 1.0) for s in scores] == [0, 0, -1, -1, -2, -2, -3, -3]
    assert level_of(1.0, 0.0) == level_of(float("nan"), 1.0) == 0


def test_lines_break_between_words_and_keep_every_level() -> None:
    shades = [Shade("The ca", -3), Shade("t", 2), Shade(" sat\ndown", 0), Shade(" there", 1)]
    lines = list(wrap_shades(shades, 8))
    assert text_of(lines) == ["The cat ", "sat", "down ", "there"]
    assert [(shade.text, shade.level) for shade in lines[0]] == [("The ca", -3), ("t", 2), (" ", 0)]


def test_long_words_and_wide_characters_never_overflow() -> None:
    lines = list(wrap_shades([Shade("incomprehensibilities 日本語日本語日本語 x")], 7))
    assert all(cell_len(text) <= 7 for text in text_of(lines))
    assert "".join(text_of(lines)).replace(" ", "") == "incomprehensibilities日本語日本語日本語x"


def test_marks_stand_below_their_tokens() -> None:
    line = [Shade("ab", -3), Shade(" c", 0), Shade("日", -2), Shade("x", 2), Shade("y", 3)]
    assert mark_text(line) == "==  --+#"


def test_hostile_characters_are_shown_not_sent() -> None:
    lines = list(wrap_shades([Shade("a\x1b[2J"), Shade("\u202e[red]")], 40))
    assert text_of(lines) == ["a␛[2J<U+202E>[red]"]

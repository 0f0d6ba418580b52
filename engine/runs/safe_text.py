"""Make text from documents, configs and file names safe to print on a terminal.

A document may contain escape sequences that move the cursor, write the clipboard or hide text.
All text from outside magic passes through :func:`safe_text` before it is displayed.
"""

import re
import unicodedata

_CONTROL_PICTURES = 0x2400
_DELETE, _DELETE_PICTURE = 0x7F, "\u2421"
_SUSPECT = re.compile(r"[^\x20-\x7e]")
_NAMED_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
_EMOJI_PARTS = frozenset("\ufe0e\ufe0f\u20e3\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
"""Variation selectors, the keycap and skin tones: their width differs between terminals."""
_PICTURES = "\u203c-\u3299\U0001f000-\U0001faff"
_EMOJI_JOINER = re.compile(
    f"(?<=[{_PICTURES}{''.join(sorted(_EMOJI_PARTS))}])\u200d(?=[{_PICTURES}])"
)
_FLAG_A, _FLAG_Z = 0x1F1E6, 0x1F1FF
"""Letters that form flags in pairs: their width differs between terminals too."""


def safe_text(text: str, keep_newlines: bool = False) -> str:
    """``text`` with every character that could control a terminal replaced by a visible one.

    C0 controls and DEL become control pictures (ESC is ``␛``), tabs become a space; C1 controls,
    format characters (bidi overrides and isolates, zero-width ones), line separators and surrogates
    become ``<U+202E>``. The parts of emoji whose width differs between terminals are removed
    (variation selectors, keycaps, skin tones, joiners), and flags become letters.

    Args:
        text: any string, lone surrogates included.
        keep_newlines: keep line feeds; CR LF then becomes one line feed.
    """
    if keep_newlines:
        return "\n".join(safe_text(line) for line in text.replace("\r\n", "\n").split("\n"))
    if "\u200d" in text:
        text = _EMOJI_JOINER.sub("", text)
    return _SUSPECT.sub(lambda match: _visible(match[0]), text)


def same_length(text: str) -> str:
    """Safe text with one character for each of ``text``, so that cursor positions are equal."""
    # Replacing each character in Python is too slow for long texts.
    seen = {character: _visible(character) for character in set(text)}
    odd = {ord(c): sign if len(sign) == 1 else "\ufffd" for c, sign in seen.items() if sign != c}
    return text.translate(odd) if odd else text


def one_line(text: str) -> str:
    """Safe text for a table cell: every run of white space becomes one space."""
    return safe_text(" ".join(text.split()))


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\t":
        return " "
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    if code == _DELETE:
        return _DELETE_PICTURE
    if character in _EMOJI_PARTS:
        return ""
    if _FLAG_A <= code <= _FLAG_Z:
        return chr(ord("A") + code - _FLAG_A)
    if unicodedata.category(character) in _NAMED_CATEGORIES:
        return f"<U+{code:04X}>"
    return character

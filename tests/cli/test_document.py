from pathlib import Path

import numpy as np
import pytest

from engine.runs.errors import UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.tables import write_rows
from engine.scores.document import decode_pieces, read_document
from tests.cli.fake_run import sample_texts, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["the cat sat"]).save(str(path))
    return path


def encode(path: Path, text: str) -> np.ndarray:
    from tokenizers import Tokenizer

    return np.array(Tokenizer.from_file(str(path)).encode(text).ids)


@pytest.mark.parametrize(
    "text", ["the cat", "wörld 🎉 日本", "a\n\n b  c", "\ufffd and more", "🎉"]
)
def test_pieces_join_to_the_text_and_cover_every_token(tokenizer_file: Path, text: str) -> None:
    ids = encode(tokenizer_file, text)
    pieces = decode_pieces(tokenizer_file, ids)
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
    assert pieces[-1].stop == len(ids)


def test_tokens_that_share_a_character_make_one_piece(tokenizer_file: Path) -> None:
    pieces = decode_pieces(tokenizer_file, encode(tokenizer_file, "a🎉"))
    assert [(piece.text, piece.stop - piece.start) for piece in pieces] == [("a", 1), ("🎉", 4)]


def test_a_character_cut_off_at_the_end_is_shown_as_unknown(tokenizer_file: Path) -> None:
    pieces = decode_pieces(tokenizer_file, encode(tokenizer_file, "a🎉")[:3])
    assert pieces[0].text == "a" and set(pieces[1].text) == {"\ufffd"}
    assert pieces[-1].stop == 3


def test_ids_are_shown_without_a_tokenizer_or_outside_its_vocabulary(
    tokenizer_file: Path, tmp_path: Path
) -> None:
    assert [p.text for p in decode_pieces(tmp_path / "none.json", np.array([5, 7]))] == [
        "⟨5⟩",
        "⟨7⟩",
    ]
    ids = np.append(encode(tokenizer_file, "a"), 99_999)
    assert [p.text for p in decode_pieces(tokenizer_file, ids)] == ["a", "⟨99999⟩"]


def test_a_document_packed_over_two_rows_is_read_in_order(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_rows(
        run.rows_store,
        np.arange(12, dtype=np.int32).reshape(3, 4),
        np.array([[0, 0, 1, 1], [1, 1, 1, 2], [2, 2, -1, -1]], np.int64),
        np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]], bool),
        np.array([[0, 5], [3, 4], [1, 2]], np.int32),
    )
    tokens = read_document(run, 1)
    assert tokens.ids.tolist() == [2, 3, 4, 5, 6]
    assert tokens.rows.tolist() == [0, 0, 1, 1, 1]
    assert tokens.positions.tolist() == [2, 3, 0, 1, 2]
    assert tokens.steps == [0, 3, 4, 5]
    assert read_document(run, 2).targets.tolist() == [True, True, False]
    with pytest.raises(UsageError, match=r"no row of run .* contains document 9"):
        read_document(run, 9)


def test_sample_texts_have_characters_of_several_bytes() -> None:
    assert any("🎉" in text for text in sample_texts(5))

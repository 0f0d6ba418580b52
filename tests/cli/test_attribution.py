from pathlib import Path

import pyarrow as pa
import pytest

from engine.runs.errors import UsageError
from engine.runs.run_folder import RunFolder
from engine.runs.tables import write_documents
from engine.scores.attribution import Query, QueryDocument, open_attribution
from engine.scores.texts import data_column, document_texts


def query(*coefficients: float) -> Query:
    documents = [QueryDocument("q", 5.0 + i, 2.0, c, {}) for i, c in enumerate(coefficients)]
    return Query(0, tuple(documents))


@pytest.mark.parametrize(
    ("coefficients", "words"),
    [
        ((1.0,), None),
        ((0.5, 0.5), "mean of 2 documents"),
        ((1.0, 1.0, 1.0), "sum of 3 documents"),
        ((0.5, 0.5, -1.0), "mean of 2 documents less 1 document"),
        ((1.0, -0.5, -0.5), "1 document less mean of 2 documents"),
        ((1.0, 1.0, -1.0, -1.0), "sum of 2 documents less sum of 2 documents"),
    ],
)
def test_how_documents_make_one_measurement(coefficients: tuple[float], words: str | None) -> None:
    assert query(*coefficients).reduction == words


def test_the_measurement_is_the_weighted_sum_of_losses() -> None:
    assert query(0.5, 0.5, -1.0).before == pytest.approx(0.5 * 5 + 0.5 * 6 - 7)
    assert query(0.5, 0.5, -1.0).after == pytest.approx(0.0)


def test_prompts_and_completions_are_shown_together(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    table = pa.table({"ask": ["a", "b", None], "say": ["1", "2", "3"], "id": ["x", "y", "z"]})
    write_documents(run.documents_file, table, ("ask", "say"), range(3))
    assert document_texts(run, [2, 0]) == [" → 3", "a → 1"]
    assert data_column(run, "data_id") == ["x", "y", "z"]
    with pytest.raises(UsageError, match="no column 'ask'"):
        data_column(run, "ask")


def test_ranks_are_among_documents_of_the_same_sign(finished: RunFolder) -> None:
    attribution = open_attribution(finished)
    for harmful in (False, True):
        listed = attribution.ranked(0, 1000, harmful)
        places = [attribution.rank(0, ranked.document) for ranked in listed]
        assert places == list(range(1, len(listed) + 1))

"""Reading relevance labels."""

import numpy as np
import pytest

from compressae import InputError
from compressae.evaluation.labels import labels_of, read_qrels


@pytest.mark.parametrize(
    "text",
    ["7 0 3 2\n7 0 4 0\n9 0 3 1\n", "query-id\tcorpus-id\tscore\n7\t3\t2\n7\t4\t0\n\n9\t3\t1"],
    ids=["trec", "beir"],
)
def test_both_forms_are_read(tmp_path, text):
    path = tmp_path / "qrels"
    path.write_text(text)
    read = read_qrels(path)
    assert read == {7: {3: 2.0, 4: 0.0}, 9: {3: 1.0}}
    kept, gone = labels_of(read, np.array([9, 8, 7]), np.array([3, 5]), path)
    assert kept == [{3: 1.0}, {}, {3: 2.0}] and gone == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no labels in it"),
        ("7 3 2\nseven 3 1\n", "line 2: 'seven 3 1'; expected 'query item grade'"),
        ("7 3\n", "line 1: '7 3'"),
        ("7 -3 1\n", "line 1"),
        ("7 3 nan\n", "line 1"),
        ("7 Q0 doc12 1\n", "by row number"),
    ],
)
def test_other_lines_are_named(tmp_path, text, said):
    path = tmp_path / "qrels"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_qrels(path)
    path.write_bytes(b"\xff\xfe1")
    with pytest.raises(InputError, match="not text"):
        read_qrels(path)


def test_labels_of_other_queries_are_refused():
    for read in ({5: {1: 1.0}}, {1: {77: 1.0}}, {1: {2: 0.0}}):
        with pytest.raises(InputError, match="names none of the 2 queries"):
            labels_of(read, np.array([1, 3]), np.array([0, 2]), "qrels")

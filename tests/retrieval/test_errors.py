"""Errors travel between processes, as of a cluster's workers."""

import pickle

import pytest

from compressae.retrieval.errors import (
    InputError,
    MissingExtraError,
    RerankError,
    UnknownIdError,
)


@pytest.mark.parametrize(
    "error",
    [
        InputError("K = 0"),
        UnknownIdError("id 7 is not in the catalogue"),
        RerankError("items.npy: cannot be read"),
        MissingExtraError("duckdb", "sql", "where"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_after_it_was_sent(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert vars(again) == vars(error)

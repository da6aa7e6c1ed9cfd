"""Pairs that the tests of recommenders share."""

import pytest
from recommender_data import blocks, write  # Puts scripts/ on the path.


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A file of planted pairs of 120 users and 80 items."""
    return write(tmp_path_factory.mktemp("recommenders") / "pairs.npz", blocks())


@pytest.fixture(scope="session")
def pairs_split(data):
    """Its split, as in the file."""
    from recommenders.interactions import read_split

    return read_split(data)

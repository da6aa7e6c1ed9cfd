"""Pairs that the tests of recommenders share, and one thread."""

from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from recommender_data import blocks, write  # Puts scripts/ on the path.
from recommenders.interactions import read_split


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A file of planted pairs of 120 users and 80 items."""
    return write(tmp_path_factory.mktemp("recommenders") / "pairs.npz", blocks())


@pytest.fixture(scope="session")
def pairs_split(data):
    """Its split, as in the file."""
    return read_split(data)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One thread of torch and of faiss: tables are so small that others only wait."""
    faiss = import_module("faiss") if find_spec("faiss") else None  # A GPU's machine may lack it.
    before = torch.get_num_threads(), faiss and faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    if faiss:
        faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    if faiss:
        faiss.omp_set_num_threads(before[1])

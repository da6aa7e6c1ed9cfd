"""The scripts on the path, small made-up clicks, and one thread."""

import pytest
import recommender_data  # noqa: F401 - Puts scripts/ on the path.
import torch
from clicks.planted import planted


@pytest.fixture(scope="session")
def clicks():
    """6,000 made-up examples of features of up to 500 values."""
    return planted(6000, 500)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One thread of torch: steps are so small that others only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

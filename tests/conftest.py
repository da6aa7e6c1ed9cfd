"""Settings of the whole suite."""

import pytest
from hypothesis import settings

# The first example of a test may wait for numba to compile.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")

"""Rows and an untrained model for tests of searches of a catalogue."""

import numpy as np
import pytest
from catalogue_rows import D, N

from compressae import CompresSAE


@pytest.fixture(scope="session")
def table():
    """(N, D) rows without structure."""
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="session")
def model():
    """An untrained dictionary of 32 latents, 4 a row."""
    model = CompresSAE(D, 32, 4, seed=1)
    model.settings = {"recipe": "pursuit"}
    return model

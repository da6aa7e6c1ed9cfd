"""Small interactions for the tests of recommenders, and where those are."""

import sys
from pathlib import Path

import numpy as np

SCRIPTS = Path(__file__).parents[1] / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))

from recommenders.synthetic import blocks, preferences  # noqa: E402

__all__ = ["SCRIPTS", "blocks", "preferences", "write"]


def write(path, arrays):
    """The same as a file."""
    np.savez(path, **arrays)
    return path

"""Doctests are code in the API reference."""

import pytest
from recommender_data import SCRIPTS  # Puts scripts/ on the path.

pytest.importorskip(
    "griffe", reason="needs griffe (pip install 'compressae[dev]'), which reads docstrings"
)
from api_examples import with_sections

BEFORE = """Double x.

>>> double(2)
4

>>> for x in (1, 2):
...     double(x)
2
4

More is said.

Examples:
    >>> double(3)
    6"""
AFTER = """Double x.

Examples:
    >>> double(2)
    4

    >>> for x in (1, 2):
    ...     double(x)
    2
    4

More is said.

Examples:
    >>> double(3)
    6"""


def test_doctests_become_sections_of_examples():
    assert with_sections(BEFORE) == AFTER
    assert with_sections(AFTER) == AFTER
    assert with_sections("Double x.") == "Double x."


def test_the_site_reads_docstrings_so():
    settings = (SCRIPTS.parent / "mkdocs.yml").read_text()
    assert "extensions: [scripts/api_examples.py]" in settings

"""Codes of any form by one call, for tests that run over all of them."""

from compressae import compress, encode
from compressae.retrieval.codes.size import PACKED_TYPES


def make_codes(model, items, values=None, nonzeros=None, refit=None, **settings):
    """``compress`` of packed value types, ``encode`` of plain ones."""
    if values in (None, *PACKED_TYPES):
        assert refit is None
        return compress(model, items, values, nonzeros, **settings)
    return encode(model, items, values, nonzeros, refit, **settings)

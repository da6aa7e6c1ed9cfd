"""Catalogues to export: dense and sparse, of numbers and texts, with rows that come and go."""

import numpy as np
import pytest
from catalogue_rows import D, N
from exported import columns_of
from scipy import sparse

from compressae import compress, encode, encode_like
from compressae.retrieval import Catalogue

#: Of codes without residual codes; see the fixtures.
KINDS = ("numbers", "texts", "plain", "ragged", "lists", "cosine lists")


@pytest.fixture(scope="session")
def queries():
    return np.random.default_rng(1).standard_normal((7, D)).astype(np.float32)


@pytest.fixture(scope="session")
def catalogues(tmp_path_factory, model, table):
    """{kind: catalogue}; scores of dense queries are not rounded by an int8 projection."""
    folder, rng = tmp_path_factory.mktemp("catalogues"), np.random.default_rng(3)
    numbers, texts = rng.permutation(5000)[:N], np.array([f"item {i} é" for i in range(N)])

    def make(name, codes, ids=None, metadata=None):
        return Catalogue.create(
            folder / name,
            model.projection,
            codes,
            ids,
            metadata=metadata,
            projection_type="float32",
        )

    def changed(catalogue, ids, new_ids):
        """Add 50 rows, and remove some of them and of the others."""
        more = encode_like(model, table[:50] + 0.5, catalogue.like)
        catalogue.add(more, new_ids, columns_of(50, seed=9))
        catalogue.remove(np.concatenate([ids[:20], new_ids[5:9]]))
        assert len(catalogue.stored) == 2
        return catalogue

    packed = compress(model, table)
    rows = rng.choice([0, 0, 0, -1, 1, 2], (N, 12)).astype(np.float32)
    rows[::17] = 0
    rows = sparse.csr_array(rows)
    ragged = compress(model, table, budget=f"{N * 8} B")
    assert ragged.counts is not None
    return {
        "numbers": changed(
            make("numbers", packed, numbers, columns_of(N)), numbers, np.arange(6000, 6050)
        ),
        "texts": changed(
            make("texts", packed, texts, columns_of(N)),
            texts,
            np.array([f"new {i}" for i in range(50)]),
        ),
        "plain": make("plain", encode(model, table, value_type="int8")),
        "ragged": make("ragged", ragged),
        "residual": make("residual", compress(model, table, residual_bytes=4), numbers),
        "lists": Catalogue.create(folder / "lists", None, rows),
        "cosine lists": Catalogue.create(folder / "cosine", None, rows, similarity="cosine"),
    }


@pytest.fixture(params=KINDS)
def catalogue(request, catalogues):
    """Each kind of codes without residual codes."""
    return catalogues[request.param]

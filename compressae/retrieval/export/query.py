"""The query side of exported rows: dense queries as sparse vectors over the latents."""

from typing import Any

import numpy as np
from scipy import sparse

from compressae.kernels.topk import abs_topk
from compressae.retrieval.errors import InputError
from compressae.retrieval.export.signs import Signs, as_halves, check_signs
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.io.embeddings import Similarity, as_embeddings


def sparse_query(
    projection: Projection,
    x: Any,
    nonzeros: int | None = None,
    similarity: Similarity | None = None,
    signs: Signs = "both",
) -> sparse.csr_array:
    """Project dense queries on the latents: q' = W·x, as sparse rows for another engine.

    The dot product of a row of the result with an exported row is the row's score. With all
    entries it is exact; the largest ones alone cost an engine that reads posting lists less time
    and some recall.

    Args:
        projection: ``catalogue.projection``, or ``model.projection``.
        x: (q, d) dense queries of any length, or one (d,).
        nonzeros: entries of largest absolute value to keep; all when None.
        similarity: of the exported codes, the model's when None. For "cosine" queries are brought
            to unit length.
        signs: of the exported rows. With "halves" the product leaves out the pairs of opposite
            signs, which lower the score: it finds candidates, which must be reranked.

    Returns:
        (q, h) float32 CSR, or (q, 2h) with signs "halves", latents ascending; row i as a pair:
        ``q[[i]].indices``, ``q[[i]].data``.

    Raises:
        InputError: queries of another width, NaN, infinite or for cosine zero; nonzeros outside
            1…h; unknown signs.

    >>> W = np.eye(4, dtype=np.float32)
    >>> projection = Projection(W, W, np.zeros(4, np.float32), nonzeros=2)
    >>> query = sparse_query(projection, [[3.0, 0, -4.0, 0]], nonzeros=1)
    >>> query.indices, query.data
    (array([2]), array([-0.8], dtype=float32))
    >>> sparse_query(projection, [[3.0, 0, -4.0, 0]], signs="halves").toarray()
    array([[0.6, 0. , 0. , 0. , 0. , 0. , 0.8, 0. ]], dtype=float32)
    """
    check_signs(signs)
    h = projection.latents
    if nonzeros is not None and not 1 <= nonzeros <= h:
        raise InputError(f"{nonzeros} query nonzeros; expected 1 to {h}, or None for all")
    if isinstance(x, list | tuple):
        x = np.asarray(x, np.float32)
    if getattr(x, "ndim", 2) == 1:
        x = x[None]
    table = as_embeddings(x, "queries").compared_by(similarity or projection.similarity)
    if table.shape[1] != projection.dim:
        raise InputError(
            f"queries of {table.shape[1]} columns; expected {projection.dim}, the width of the "
            "indexed embeddings"
        )
    parts = [sparse.csr_array((0, h), dtype=np.float32)]
    for _, rows in table.batches(max(1, (1 << 24) // h)):
        projected = projection.project(rows)
        if nonzeros is None:
            parts.append(sparse.csr_array(projected))
            continue
        latents, values = abs_topk(projected, nonzeros)
        bounds = np.arange(len(rows) + 1) * nonzeros
        part = sparse.csr_array((values.ravel(), latents.ravel(), bounds), (len(rows), h))
        part.eliminate_zeros()
        part.sort_indices()
        parts.append(part)
    query = sparse.vstack(parts, format="csr")
    if signs == "both":
        return query
    latents, values = as_halves(query.indptr, query.indices, query.data, h)
    return sparse.csr_array((values, latents, query.indptr), (query.shape[0], 2 * h))

"""Our compressed index. Queries: one dense row (1, d); the batch is (q, d)."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.search.engines import Engine, Setting

from compressae import open_embeddings
from compressae.retrieval import CompressedIndex

#: (query nonzeros, candidates) of a search by posting lists.
STAGES = ((32, 150), (64, 250), (64, 500), (128, 1000), (128, 3000))
#: The same with the rows that are reranked.
RERANKED = ((64, 250, 20), (64, 500, 40), (128, 1000, 80))


def build(index: CompressedIndex, corpus: Path) -> Engine:
    """Search by posting lists, by a scan of the codes, and with rows of ``corpus`` from disk."""
    rows = open_embeddings(corpus)
    options: dict[str, dict[str, Any]] = {
        f"kq {kq}, C {C}": {"query_nonzeros": kq, "candidates": C} for kq, C in STAGES
    }
    options["scan"] = {"candidates": "all"}
    for kq, C, R in RERANKED:
        stages = {"query_nonzeros": kq, "candidates": C}
        reranking = {"rerank": rows, "rerank_candidates": R}
        options[f"kq {kq}, C {C}, {R} rows from disk"] = {**stages, **reranking}
    return _engine(index, options)


def build_float32(index: CompressedIndex) -> Engine:
    """Two of these searches with a float32 projection: what its int8 form loses."""
    exact = CompressedIndex(index.projection, index.codes, threads=1, projection_type="float32")
    options = {"kq 128, C 1000": {"query_nonzeros": 128, "candidates": 1000}}
    return _engine(exact, {**options, "scan": {"candidates": "all"}})


def _engine(index: CompressedIndex, options: dict[str, dict[str, Any]]) -> Engine:
    def search(queries: np.ndarray, K: int, **kwargs: Any) -> np.ndarray:
        return index.search(queries, K, **kwargs).ids

    settings = []
    for name, kwargs in options.items():
        call = partial(search, **kwargs)
        nbytes = index.codes.nbytes if name == "scan" else None
        settings.append(Setting(name, call, batch=call, nbytes=nbytes))
    return Engine(index.nbytes, index.constant_nbytes, settings)

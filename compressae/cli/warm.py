"""Command warm: compile the kernels."""

import time

import click

from compressae.cli import common


@click.command(cls=common.Command, examples=("warm",))
@common.json_option
def warm(as_json: bool) -> None:
    """Compile the kernels that train, encode and search, and keep them beside the package.

    For an image, or before many workers start together, each of which would compile them. A GPU's
    kernels are compiled on a GPU, when they are used.
    """
    import numpy as np
    from scipy import sparse

    from compressae import TrainConfig, compress, encode, train
    from compressae.retrieval import CompressedIndex, InvertedIndex

    started = time.perf_counter()
    items = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    model = train(items, TrainConfig(latents=64, nonzeros=4, steps=3))
    forms = [
        compress(model, items, residual_bytes=4),
        compress(model, items, residual_bytes=4, beam=2),
        compress(model, items, budget="9 B/row"),
        compress(model, items, residual_bytes=4, similarity="dot"),
        encode(model, items, "float32"),
        encode(model, items, "float16"),
        encode(model, items, "int8"),
    ]
    seen = sparse.eye_array(20, 400, format="csr")
    for codes in forms:
        index = CompressedIndex(model.projection, codes)
        for scoring in ("asymmetric", "sparse", "reconstructed"):
            if scoring == "asymmetric" or codes.similarity == "cosine":
                index.search(items[:20], 5, scoring=scoring)
        index.search(items[:20], 5, candidates="all", exclude=seen)
        index.search(items[:1], 5, allowed=np.arange(50))
        index.add(index.codes.take(np.arange(2)))
        index.search(items[:2], 5)
    lists = encode(model, items).to_scipy()
    for list_type in ("int8", "float32"):
        inverted = InvertedIndex(lists, list_type=list_type)
        for queries in (lists[:1], lists[:20]):
            inverted.search(queries, 5)
            inverted.search(queries, 5, allowed=np.arange(50))
    common.say({"seconds": round(time.perf_counter() - started, 1)}, as_json)

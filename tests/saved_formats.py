"""Small artifacts of one format version, kept in tests/data, and the searches they must answer.

python tests/saved_formats.py     # writes tests/data/format_<N>, if it is not there yet

Run it once after ``FORMAT_VERSION`` in ``retrieval/io/artifacts.py`` has grown, and commit the new
folder. Folders of older formats stay as they are: what users saved must go on loading.
"""

import json
import sys
from pathlib import Path

import numpy as np

from compressae import CompresSAE, TrainConfig, compress, encode, encode_like, train
from compressae.retrieval import Catalogue, CompressedIndex, InvertedIndex, Projection, load_codes
from compressae.retrieval.io.artifacts import FORMAT_VERSION

DATA = Path(__file__).parent / "data"
N, D, H, K = 260, 8, 32, 2


def write(folder: Path) -> None:
    """Write a model, codes, catalogues, queries (5, d) and what searches find to a new folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    table = rng.standard_normal((N, D)).astype(np.float32)
    more = table[:6] + np.float32(0.1)
    np.save(folder / "queries.npy", table[:5] + np.float32(0.05))

    model = train(table, TrainConfig(latents=H, nonzeros=K, steps=10, batch=64))
    packed = compress(model, table, residual_bytes=1)
    plain = encode(model, table, value_type="int8")
    model.save(folder / "model")
    packed.save(folder / "codes_packed")
    plain.save(folder / "codes_plain")

    # Text ids, metadata, rows that were added and rows that were removed.
    catalogue = Catalogue.create(
        folder / "catalogue",
        model.projection,
        packed,
        ids=[f"item {row}" for row in range(N)],
        metadata={"price": np.arange(N, dtype=np.int32)},
    )
    catalogue.add(
        encode_like(model, more, catalogue.like),
        ids=[f"new {row}" for row in range(len(more))],
        metadata={"price": np.zeros(len(more), np.int32)},
    )
    catalogue.remove(["item 0", "item 7"])
    Catalogue.create(folder / "catalogue_sparse", None, plain)
    for lock in folder.glob("*/writer.lock"):
        lock.unlink()
    (folder / "answers.json").write_text(json.dumps(answers(folder), indent=1) + "\n")


def answers(folder: Path) -> dict[str, list]:
    """Ids that searches over the artifacts of a folder find; every row is a candidate."""
    queries = np.load(folder / "queries.npy")
    packed, plain = (load_codes(folder / f"codes_{form}") for form in ("packed", "plain"))
    projection = Projection.load(folder / "model")
    model = CompresSAE.load(folder / "model")
    catalogue = Catalogue.open(folder / "catalogue", verify=True)
    sparse = Catalogue.open(folder / "catalogue_sparse", verify=True)
    hits = {
        "model": CompressedIndex(model.projection, packed).search(queries, 5, "reconstructed"),
        "codes packed": CompressedIndex(projection, packed).search(queries, 5),
        "codes plain": CompressedIndex(projection, plain).search(queries, 5),
        "codes plain, sparse queries": InvertedIndex(plain).search(plain.take(np.arange(5)), 5),
        "catalogue": catalogue.search(queries, 5),
        "catalogue, where": catalogue.search(queries, 5, where="price >= 200"),
        "catalogue, version 1": Catalogue.open(folder / "catalogue", 1).search(queries, 5),
        "catalogue without a model": sparse.search(sparse.index.codes.take(np.arange(5)), 5),
    }
    return {name: found.ids.tolist() for name, found in hits.items()}


if __name__ == "__main__":
    place = DATA / f"format_{FORMAT_VERSION}"
    if place.exists():
        sys.exit(f"{place} exists and stays as it is")
    write(place)

"""Load the sample table of the package: embeddings of 20,000 WordNet nouns."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressae.retrieval.io.embeddings import Embeddings, as_embeddings
from compressae.retrieval.io.tensorfile import read_places

_FOLDER = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Sample:
    """A table and its texts.

    Attributes:
        embeddings: (n, d) float32.
        texts: the n texts, ``lemma, lemma: gloss``.
    """

    embeddings: Embeddings
    texts: list[str]


def sample_path() -> Path:
    """Path of the file: tensors values (n, d) int8, scales (n,) float32 and rows (n,) int32."""
    return _FOLDER / "wordnet_nouns.safetensors"


def load_sample() -> Sample:
    """Load the sample into memory: n = 20,000 noun synsets of WordNet 3.0, d = 384 (31 MB).

    The rows are all-MiniLM-L6-v2 embeddings of the texts, stored as int8 with a scale per row. The
    cosine with the float16 originals is at least 0.99992 and 0.99997 on average (measured on all
    rows). The lengths are 1 within 0.002.

    >>> sample = load_sample()
    >>> sample.embeddings.shape, len(sample.texts)
    ((20000, 384), 20000)
    """
    tensors = {name: place.map() for name, place in read_places(sample_path()).items()}
    table = tensors["values"] * tensors["scales"][:, None]
    with gzip.open(_FOLDER / "wordnet_nouns.txt.gz", "rt", encoding="utf-8", newline="\n") as file:
        texts = file.read().removesuffix("\n").split("\n")
    return Sample(as_embeddings(np.asarray(table), "wordnet sample"), texts)

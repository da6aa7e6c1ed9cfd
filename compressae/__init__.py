"""Sparse codes for dense embeddings: train, compress, search, evaluate.

Public names are imported when first used, so that ``import compressae`` costs nothing.

>>> import compressae
>>> "train" in dir(compressae)
True
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressae.coding.compress import compress, encode, encode_like
    from compressae.coding.fit import fit_quantizer
    from compressae.coding.plan import choose_form
    from compressae.model import CompresSAE
    from compressae.retrieval.errors import InputError
    from compressae.retrieval.io.embeddings import open_embeddings
    from compressae.sample import load_sample
    from compressae.training.config import TrainConfig
    from compressae.training.loop import TrainProgress, train

_HOME = {
    "CompresSAE": "model",
    "InputError": "retrieval.errors",
    "TrainConfig": "training.config",
    "TrainProgress": "training.loop",
    "choose_form": "coding.plan",
    "compress": "coding.compress",
    "encode": "coding.compress",
    "encode_like": "coding.compress",
    "fit_quantizer": "coding.fit",
    "load_sample": "sample",
    "open_embeddings": "retrieval.io.embeddings",
    "train": "training.loop",
}

__all__ = [
    "CompresSAE",
    "InputError",
    "TrainConfig",
    "TrainProgress",
    "choose_form",
    "compress",
    "encode",
    "encode_like",
    "fit_quantizer",
    "load_sample",
    "open_embeddings",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compressae' has no attribute {name!r}")
    return getattr(import_module(f"compressae.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

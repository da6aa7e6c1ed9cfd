"""Sparse codes for dense embeddings: train, compress, search, judge.

Public names are imported when first used, so that ``import compressae`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressae.config import TrainConfig
    from compressae.gpu_index import GpuIndex
    from compressae.model import CompresSAE
    from compressae.retrieval.embeddings import open_embeddings
    from compressae.retrieval.errors import InputError
    from compressae.sample import load_sample
    from compressae.search import CompressedIndex
    from compressae.training import TrainProgress, train

_HOME = {
    "CompresSAE": "model",
    "CompressedIndex": "search",
    "GpuIndex": "gpu_index",
    "InputError": "retrieval.errors",
    "TrainConfig": "config",
    "TrainProgress": "training",
    "load_sample": "sample",
    "open_embeddings": "retrieval.embeddings",
    "train": "training",
}

__all__ = [
    "CompresSAE",
    "CompressedIndex",
    "GpuIndex",
    "InputError",
    "TrainConfig",
    "TrainProgress",
    "load_sample",
    "open_embeddings",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compressae' has no attribute {name!r}")
    return getattr(import_module(f"compressae.{_HOME[name]}"), name)

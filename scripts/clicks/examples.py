"""Examples of a click model: labels, dense features, ids of categorical features, a split."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from compressae.retrieval.errors import InputError

PARTS = ("train", "valid", "test")


class Batch(NamedTuple):
    """Some examples as tensors; ``features`` as a ``TableCollection`` takes them."""

    labels: Tensor
    dense: Tensor
    features: dict[str, Any]


class Bags(NamedTuple):
    """Ids of a feature that has several an example: those of i are ids[offsets[i]:offsets[i + 1]].

    Attributes:
        ids: (T,) int32.
        offsets: (N + 1,) int64.
    """

    ids: np.ndarray
    offsets: np.ndarray


@dataclass(frozen=True)
class Examples:
    """N examples; arrays may be maps of files.

    Attributes:
        name: of the data set.
        labels: (N,) float32 of 0 and 1.
        dense: (N, D) float32; D may be 0.
        ids: (N, F) int32, one id of each of F features.
        features: names of these features.
        rows: {feature: number of ids}, features of bags too.
        parts: {"train", "valid", "test": indices of examples (m,) int64}.
        bags: {feature: bags} of features with several ids an example.
        probabilities: (N,) of label 1, where they are known (made-up data).
        facts: for the record, as JSON.
    """

    name: str
    labels: np.ndarray
    dense: np.ndarray
    ids: np.ndarray
    features: tuple[str, ...]
    rows: dict[str, int]
    parts: dict[str, np.ndarray]
    bags: dict[str, Bags] = field(default_factory=dict)
    probabilities: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in PARTS:
            if not len(self.parts[part]):
                raise InputError(
                    f"{self.name}: {len(self.labels)} examples leave none for {part}; expected "
                    "one at least: give more"
                )
        if len(np.unique(self.labels[self.parts["test"]])) < 2:
            raise InputError(f"{self.name}: test examples of one label; expected some of each")

    def batch(self, indices: np.ndarray) -> Batch:
        """Gather examples (m,)."""
        ids = torch.from_numpy(np.ascontiguousarray(self.ids[indices].T))
        features: dict[str, Any] = dict(zip(self.features, ids, strict=True))
        for name, bags in self.bags.items():
            starts, ends = bags.offsets[indices], bags.offsets[indices + 1]
            lengths = ends - starts
            offsets = np.cumsum(lengths) - lengths
            places = np.arange(lengths.sum()) + np.repeat(starts - offsets, lengths)
            features[name] = torch.from_numpy(bags.ids[places]), torch.from_numpy(offsets)
        labels, dense = self.labels[indices], self.dense[indices]
        return Batch(torch.from_numpy(labels), torch.from_numpy(dense), features)

    def frequencies(self) -> dict[str, np.ndarray]:
        """{feature: uses of each id in training (n,)}."""
        train = self.parts["train"]
        counts = {
            name: np.bincount(self.ids[train, column], minlength=self.rows[name])
            for column, name in enumerate(self.features)
        }
        for name, bags in self.bags.items():
            lengths = np.diff(bags.offsets)
            used = np.zeros(len(lengths), bool)
            used[train] = True
            chosen = bags.ids[np.repeat(used, lengths)]
            counts[name] = np.bincount(chosen, minlength=self.rows[name])
        return counts


def random_parts(n: int, seed: int) -> dict[str, np.ndarray]:
    """Split n examples at random: 80 % training, 10 % validation, 10 % test."""
    order = np.random.default_rng(seed).permutation(n)
    first, second = n * 8 // 10, n * 9 // 10
    cuts = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
    return {part: np.sort(indices) for part, indices in cuts.items()}


def ordered_parts(n: int, seed: int) -> dict[str, np.ndarray]:
    """Split n examples in order of time as arXiv 1909.02107: six sevenths train, the others are
    halved at random."""
    first = training_size(n)
    rest = first + np.random.default_rng(seed).permutation(n - first)
    half = len(rest) // 2
    return {
        "train": np.arange(first),
        "valid": np.sort(rest[:half]),
        "test": np.sort(rest[half:]),
    }


def training_size(n: int) -> int:
    """Training examples of ``ordered_parts``."""
    return n * 6 // 7

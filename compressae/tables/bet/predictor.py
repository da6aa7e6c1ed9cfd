"""BET's fitness predictor: the quality of a table by its widths, learned from trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressae.retrieval.errors import InputError
from compressae.tables.budgets import check_budget, check_shares
from compressae.tables.ragged import check_widths


@dataclass(frozen=True, eq=False)
class Sets:
    """Input of the predictor: the frequencies of the rows of each width.

    Attributes:
        sizes: (p,) int64 ascending widths, one for each pair of a width and a frequency.
        ranks: (p,) int64 ranks of the frequencies among the sorted distinct ones.
        fractions: (p,) float32 of the rows of this width that have this frequency.
    """

    sizes: np.ndarray
    ranks: np.ndarray
    fractions: np.ndarray


class FitnessPredictor(nn.Module):
    """Predict fitness by DeepSets over widths, BET's predictor (arXiv 2310.14884, section 4.2).

    Rows of one width d form a set: s_d = MLP([mean of MLP(frequency / largest); d / d_max]) and
    the fitness is MLP(mean of s_d over the widths that occur). The order of rows does not matter.
    Rows of equal frequency are computed once, for all tables together. It stays on the CPU, where
    a hundred tables of 70,000 rows take a tenth of a second.

    Args:
        frequencies: (n,) ≥ 0 of the rows, n ≥ 1.
        d_max: the largest width, 1 or more.

    Raises:
        InputError: no row, frequencies that are negative or not finite, or d_max below 1.

    >>> predictor = FitnessPredictor([9, 1, 5, 1], d_max=8)
    >>> tables = [predictor.sets(np.array(widths)) for widths in ([8, 1, 4, 1], [2, 2, 2, 2])]
    >>> predictor.predict(tables).shape
    (2,)
    """

    frequencies: Tensor

    def __init__(self, frequencies: Any, d_max: int) -> None:
        super().__init__()
        frequencies = check_shares(frequencies, "frequencies")
        check_budget(len(frequencies), d_max, 0, 0)
        distinct, self._ranks = np.unique(frequencies, return_inverse=True)
        inputs = distinct / max(distinct[-1], np.finfo(np.float64).tiny)
        self.register_buffer("frequencies", torch.from_numpy(inputs).float()[:, None])
        self.d_max = d_max
        self.of_row = _mlp(1, 16, 16)
        self.of_set = _mlp(17, 64, 64)
        self.of_table = _mlp(64, 64, 1)

    def sets(self, widths: np.ndarray) -> Sets:
        """Convert widths (n,), 0 to d_max, to sets.

        Raises:
            InputError: widths out of range, or not one a row.
        """
        widths = check_widths(widths, self.d_max).numpy()
        if len(widths) != len(self._ranks):
            raise InputError(
                f"{len(widths)} widths for {len(self._ranks)} rows: expected one a row"
            )
        count = len(self.frequencies)
        keys, rows = np.unique(widths * count + self._ranks, return_counts=True)
        sizes = keys // count
        fractions = rows / np.bincount(sizes, rows)[sizes]
        return Sets(sizes, keys % count, fractions.astype(np.float32))

    def forward(self, tables: Sequence[Sets]) -> Tensor:
        """Predict fitness (a,) of a tables."""
        return self.of_table(self.embed(tables))[:, 0]

    def embed(self, tables: Sequence[Sets]) -> Tensor:
        """Embed a tables: the mean (a, 64) of s_d over the widths of each."""
        span = self.d_max + 1
        lengths = [len(table.sizes) for table in tables]
        owner = np.repeat(np.arange(len(tables)), lengths)
        keys = torch.from_numpy(owner * span + np.concatenate([t.sizes for t in tables]))
        ranks = torch.from_numpy(np.concatenate([t.ranks for t in tables]))
        fractions = torch.from_numpy(np.concatenate([t.fractions for t in tables]))

        # Mean over the rows of each set, one set for each width of each table.
        distinct, owner = torch.unique_consecutive(keys, return_inverse=True)
        rows = self.of_row(self.frequencies)[ranks] * fractions[:, None]
        means = rows.new_zeros(len(distinct), rows.shape[1]).index_add(0, owner, rows)
        size = (distinct % span / self.d_max)[:, None]

        # Mean over the sets of each table.
        sets = self.of_set(torch.cat([means, size], 1))
        owner = distinct // span
        sums = sets.new_zeros(len(tables), sets.shape[1]).index_add(0, owner, sets)
        counts = torch.bincount(owner, minlength=len(tables))
        return sums / counts[:, None]

    def predict(self, tables: Sequence[Sets]) -> np.ndarray:
        """Predict fitness (a,) float32 of a ≥ 1 tables, without gradient."""
        with torch.no_grad():
            return self(tables).numpy()


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(), nn.Linear(hidden, outputs))

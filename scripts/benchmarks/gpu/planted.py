"""Codes that are made, not trained: their shape is that of a model of 4,096 latents."""

import numpy as np
import torch
from benchmarks.gpu.lab import Lab

from compressae.retrieval.codes.quantizer import RowQuantizer

LATENTS, NONZEROS, DIM = 4096, 32, 768
#: Levels of a rank: 4 bits, so that a nonzero takes 16 and a row 65 bytes.
LEVELS = 16
SEED = 0


def drawn_ids(lab: Lab, n: int, seed: int) -> torch.Tensor:
    """Draw latents (n, NONZEROS) int64, one from each of NONZEROS groups, so distinct in a row.

    Within a group they are skewed: the most frequent about 10 times the median.
    """
    generator = torch.Generator(lab.device).manual_seed(seed)
    group = LATENTS // NONZEROS
    order = torch.randperm(LATENTS, device=lab.device, generator=generator).view(NONZEROS, group)
    popularity = (torch.arange(group, device=lab.device) + 1.0) ** -0.6
    cdf = torch.cumsum(popularity / popularity.sum(), 0)
    ids = torch.empty(n, NONZEROS, dtype=torch.int64, device=lab.device)
    for start in range(0, n, 1 << 20):
        part = ids[start : start + (1 << 20)]
        place = torch.searchsorted(
            cdf, torch.rand(part.shape, device=lab.device, generator=generator)
        )
        part[:] = order[torch.arange(NONZEROS, device=lab.device), place.clamp_(max=group - 1)]
    return ids


def quantizer() -> RowQuantizer:
    """A quantiser of 16 levels a rank, smaller at later ranks; without residual codes."""
    even = np.linspace(-1, 1, LEVELS, dtype=np.float32)
    ranks = (np.arange(NONZEROS, dtype=np.float32) + 1) ** -0.5
    return RowQuantizer(
        latents=LATENTS,
        error_weighting=np.eye(DIM, dtype=np.float32),
        levels=(ranks[:, None] * even).astype(np.float32),
        value_bits=np.full(NONZEROS, LEVELS.bit_length() - 1),
        gains=np.linspace(0.5, 1.5, 256, dtype=np.float32),
        project=np.empty((DIM, 0), np.float32),
        restore=np.empty((DIM, 0), np.float32),
        codebooks=np.empty((0, 256, 0), np.float32),
    )

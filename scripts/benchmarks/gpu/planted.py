"""A made-up table, its trained codes and queries to it: what searches are measured on."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from benchmarks.gpu.lab import Lab

from compressae import CompresSAE, TrainConfig, train
from compressae.kernels.decode import decode
from compressae.kernels.pursuit import pursue, pursuit_schedule
from compressae.kernels.scan import SCAN_BLOCK, Planes
from compressae.retrieval.codes.quantizer import RowQuantizer

#: Levels of a rank: 4 bits, so that a nonzero takes 16 of 4,096 latents and a row 65 bytes.
LEVELS = 16
SEED = 0
_PART = 1 << 16


@dataclass(frozen=True, eq=False)
class Planted:
    """Rows of sums of drawn directions, coded by a model that learned from some of them.

    Attributes:
        model: the model, on the CPU.
        rows: (n, d) bfloat16 unit rows on the device.
        queries: (q, d) float32 unit rows that are none of them.
        ids: (n, k) int16 latents, by descending |value|.
        numbers: (n, k) uint8 level numbers.
        gains: (n,) uint8 gain bytes.
        quantizer: levels and gains.
    """

    model: CompresSAE
    rows: torch.Tensor
    queries: torch.Tensor
    ids: torch.Tensor
    numbers: torch.Tensor
    gains: torch.Tensor
    quantizer: RowQuantizer

    def planes(self) -> Planes:
        """The codes in blocks, on the device."""
        whole = len(self.ids) // SCAN_BLOCK * SCAN_BLOCK
        blocks = (-1, SCAN_BLOCK, self.ids.shape[1])
        bits = (self.model.latents - 1).bit_length()
        device = self.rows.device
        slots = torch.empty(
            whole // SCAN_BLOCK, blocks[2], SCAN_BLOCK, dtype=torch.int16, device=device
        )
        for at in range(0, len(slots), 1 << 10):
            part = slice(at * SCAN_BLOCK, min((at + (1 << 10)) * SCAN_BLOCK, whole))
            packed = self.ids[part].int() | self.numbers[part].int() << bits
            slots[at : at + (1 << 10)] = packed.view(blocks).transpose(1, 2)
        levels, gains = (
            torch.from_numpy(array).to(device)
            for array in (self.quantizer.levels, self.quantizer.gains)
        )
        return Planes(
            whole,
            self.model.latents,
            slots,
            levels=levels,
            gains=self.gains[:whole].view(-1, SCAN_BLOCK),
            gain_table=gains,
        )


def drawn_rows(lab: Lab, n: int, d: int, seed: int = SEED) -> torch.Tensor:
    """Made-up embeddings (n, d): sums of 24 of 20·d directions with decaying weights, and noise
    with a decaying spectrum. The directions are the same for all seeds.

    Of the second moment, a table of WordNet's sentence embeddings has .34, .47, .65 and .85 in its
    first 16, 32, 64 and 128 of 384 dimensions; this one .43, .53, .64 and .74 of 768.
    """
    spectrum = torch.arange(1, d + 1, device=lab.device) ** -0.5
    generator = torch.Generator(lab.device).manual_seed(SEED)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=lab.device, generator=generator)

    directions = torch.nn.functional.normalize(normal(20 * d, d) * spectrum)
    generator.manual_seed(SEED + 1 + seed)
    rows = 0.5 * torch.nn.functional.normalize(normal(n, d) * spectrum)
    for j in range(24):
        drawn = torch.rand(n, device=lab.device, generator=generator) ** 2 * len(directions)
        rows += normal(n, 1) * (j + 1) ** -0.5 * directions[drawn.long()]
    return rows


@lru_cache(maxsize=1)
def planted(lab: Lab) -> Planted:
    """Make the table and its codes: 10,000,000 rows of 768, 32 nonzeros of 4,096 latents."""
    n, d, h, k = lab.pick((10_000_000, 768, 4096, 32), (288, 64, 32, 2))
    learned = lab.pick(1 << 18, 40)
    config = TrainConfig(latents=h, nonzeros=k, steps=lab.pick(40, 1), batch=lab.pick(16_384, 10))
    model = train(drawn_rows(lab, learned, d, seed=0).cpu().numpy(), config, lab.device)
    weights = model.decoder.detach().to(lab.device)
    rows = torch.empty(n, d, dtype=torch.bfloat16, device=lab.device)
    ids = torch.empty(n, k, dtype=torch.int16, device=lab.device)
    numbers = torch.empty(n, k, dtype=torch.uint8, device=lab.device)
    gains = torch.empty(n, dtype=torch.uint8, device=lab.device)
    levels = torch.empty(0)
    table = torch.linspace(0.5, 2.0, 256, device=lab.device)
    ranks = torch.arange(k, device=lab.device)
    for i, start in enumerate(range(0, n, _PART)):
        part = slice(start, min(start + _PART, n))
        x = torch.nn.functional.normalize(drawn_rows(lab, part.stop - start, d, seed=i))
        latents, values = pursue(x, weights, pursuit_schedule(k, 4))
        order = values.abs().argsort(1, descending=True)
        latents, values = latents.gather(1, order), values.gather(1, order)
        if i == 0:  # Levels of a rank are its quantiles.
            at = (torch.arange(LEVELS, device=lab.device) + 0.5) / LEVELS
            levels = values.quantile(at, dim=0).T.contiguous()
        middles = ((levels[:, 1:] + levels[:, :-1]) / 2).contiguous()
        number = torch.searchsorted(middles, values.T.contiguous()).T
        decoded = decode(latents, levels[ranks, number], weights)
        gain = (x * decoded).sum(1) / decoded.square().sum(1).clamp(min=1e-6)
        rows[part], ids[part], numbers[part] = x.bfloat16(), latents.short(), number.byte()
        gains[part] = torch.searchsorted(table, gain).clamp(max=255).byte()
    asked = torch.nn.functional.normalize(drawn_rows(lab, lab.pick(512, 2), d, seed=-1))
    quantizer = RowQuantizer(
        latents=h,
        error_weighting=np.eye(d, dtype=np.float32),
        levels=levels.cpu().numpy(),
        value_bits=np.full(k, LEVELS.bit_length() - 1),
        gains=table.cpu().numpy(),
        project=np.empty((d, 0), np.float32),
        restore=np.empty((d, 0), np.float32),
        codebooks=np.empty((0, 256, 0), np.float32),
        scales=np.ones(256, np.float32),
    )
    return Planted(model, rows, asked, ids, numbers, gains, quantizer)


def best_of(rows: torch.Tensor, queries: torch.Tensor, K: int) -> torch.Tensor:
    """Ids (q, K) of the largest products of rows (n, d) with float32 queries."""
    scores, ids = [], []
    for start in range(0, len(rows), 1 << 20):
        part = queries @ rows[start : start + (1 << 20)].float().T
        best = part.topk(min(K, part.shape[1]))
        scores.append(best.values)
        ids.append(best.indices + start)
    return torch.cat(ids, 1).gather(1, torch.cat(scores, 1).topk(K).indices)


def recall(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Mean share of wanted (q, K) among found (q, any)."""
    return (wanted[:, :, None] == found[:, None, :]).any(2).float().mean().item()

"""Calibration of quantised tables: scales by the least squared error of each row."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressae.tables import QuantizedTable

#: Clips tried, as shares of the largest entry of a row.
CLIPS = torch.linspace(1, 0.4, 25)


class Clip(nn.Module):
    """Clip rows (n, d) to shares of their largest entry: |w| ≤ clip_i · max|w_i|.

    Rounding then has the scale clip_i · max|w_i| / L. What is clipped has no gradient, as in PACT
    (arXiv 1805.06085).

    Args:
        clips: (n,) in (0, 1].
    """

    clips: Tensor

    def __init__(self, clips: Tensor) -> None:
        super().__init__()
        self.register_buffer("clips", clips)

    def forward(self, rows: Tensor) -> Tensor:
        bounds = (self.clips * rows.detach().abs().amax(1))[:, None]
        return rows.clamp(-bounds, bounds)


@torch.no_grad()
def calibrate(table: QuantizedTable) -> Tensor:
    """Set the clip of each row to that of ``CLIPS`` with the least squared error of its rounding.

    Training then goes on through clipping and rounding. Returns the clips (n,).
    """
    rows = table.weight.detach().clone()
    least = torch.full((len(rows),), float("inf"))
    clips = torch.ones(len(rows))
    for clip in CLIPS:
        clipped = Clip(clip.expand(len(rows)))(rows)
        rounded = type(table).from_dense(clipped, table.bits, scale_dtype=table.scale_dtype).rows()
        error = (rounded - rows).square().sum(1)
        better = error < least
        least, clips = torch.where(better, error, least), torch.where(better, clip, clips)
    parametrize.register_parametrization(table, "weight", Clip(clips))
    return clips

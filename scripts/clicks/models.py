"""DLRM and DCN v2: click models over a collection of tables and dense features."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from clicks.examples import Batch
from compressae.retrieval.errors import InputError
from compressae.tables import TableCollection

MODELS = ("dlrm", "dcn")


class ClickModel(nn.Module):
    """Base class: logits (B,) of a batch.

    Args:
        tables: all of one dimension d.
        dense: D, the number of dense features; may be 0.
    """

    def __init__(self, tables: TableCollection, dense: int) -> None:
        super().__init__()
        dims = set(tables.embedding_dims.values())
        if len(dims) > 1:
            raise InputError(f"tables of {sorted(dims)} dimensions; expected one number")
        self.tables, self.dim, self.dense = tables, dims.pop(), dense

    def forward(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def embed(self, batch: Batch) -> list[Tensor]:
        """Rows (B, d) of each feature."""
        return list(self.tables(batch.features).values())


class DLRM(ClickModel):
    """DLRM (arXiv 1906.00091): dot products of all pairs of rows and of the dense features' row.

    Args:
        bottom: hidden widths of the layers that map dense features to a row.
        top: hidden widths of the layers that map the dot products to a logit.
    """

    def __init__(
        self,
        tables: TableCollection,
        dense: int,
        bottom: tuple[int, ...] = (512, 256, 64),
        top: tuple[int, ...] = (512, 256),
    ) -> None:
        super().__init__(tables, dense)
        rows = len(tables) + (dense > 0)
        self.bottom = _layers((dense, *bottom, self.dim), last_relu=True) if dense else None
        self.top = _layers((rows * (rows - 1) // 2 + self.dim * (dense > 0), *top, 1))
        self.register_buffer("_pairs", torch.tril_indices(rows, rows, -1), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        rows, first = self.embed(batch), []
        if self.bottom is not None:
            first = [self.bottom(batch.dense)]
        stacked = torch.stack([*first, *rows], 1)
        products = stacked @ stacked.transpose(1, 2)
        pairs = self.get_buffer("_pairs")
        return self.top(torch.cat([*first, products[:, pairs[0], pairs[1]]], 1))[:, 0]


class DCN(ClickModel):
    """DCN v2 (arXiv 2008.13535), parallel: cross layers x + x₀ ⊙ (U·V·x + b) beside an MLP.

    Args:
        cross: number of cross layers.
        rank: of U·V.
        deep: hidden widths of the MLP.
    """

    def __init__(
        self,
        tables: TableCollection,
        dense: int,
        cross: int = 3,
        rank: int = 64,
        deep: tuple[int, ...] = (512, 256, 64),
    ) -> None:
        super().__init__(tables, dense)
        width = len(tables) * self.dim + dense
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(cross))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(cross))
        self.deep = _layers((width, *deep), last_relu=True)
        self.output = nn.Linear(width + deep[-1], 1)

    def forward(self, batch: Batch) -> Tensor:
        first = torch.cat([*self.embed(batch), batch.dense], 1)
        crossed = first
        for down, up in zip(self.down, self.up, strict=True):
            crossed = crossed + first * up(down(crossed))
        return self.output(torch.cat([crossed, self.deep(first)], 1))[:, 0]


def click_model(name: str, tables: TableCollection, dense: int, small: bool = False) -> ClickModel:
    """Make one of ``MODELS``; ``small``: hidden layers for a CPU of a laptop."""
    if name == "dcn":
        return DCN(tables, dense, 2, 16, (64,)) if small else DCN(tables, dense)
    return DLRM(tables, dense, (32,), (64,)) if small else DLRM(tables, dense)


def _layers(widths: tuple[int, ...], last_relu: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers if last_relu else layers[:-1])

"""Matrix factorisation, NCF, LightGCN and NGCF over one table of users and items.

The table is any module called like ``nn.Embedding``, of n_users + n_items rows, users first, with a
method ``rows()`` that returns all of them, (n, d).
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from compressae.retrieval.errors import InputError
from recommenders.propagation import neighbours, normalised_adjacency, propagate

#: Ids (any shape) int64 → rows (..., d).
Lookup = Callable[[Tensor], Tensor]
#: Which rows are scaled to length 1.
Unit = Literal["none", "users", "both"]
#: Pairs of NCF that are scored together, so that a block fits the cache.
_PAIRS = 1 << 12


class MF(nn.Module):
    """Matrix factorisation: the score of a pair is the dot product of its rows.

    With the loss "bpr" it is BPR-MF (arXiv 1205.2618). Base class of the other models.

    Args:
        table: see the module.
        train: (n_users, n_items) training pairs.
        unit: which rows are scaled to length 1: "none"; "users", which changes no ranking and
            stabilises the loss "softmax"; or "both": scores are cosines (arXiv 2201.02327).
    """

    #: Whether scores are the same after all rows of the table are rotated.
    survives_rotation: ClassVar[bool] = True

    def __init__(self, table: nn.Module, train: csr_array, unit: Unit = "none") -> None:
        super().__init__()
        self.n_users, self.n_items = map(int, train.shape)
        self.table, self.unit = table, unit
        with torch.no_grad():
            shape = tuple(table.rows().shape)  # type: ignore[operator]
        if len(shape) != 2 or shape[0] != self.n_users + self.n_items:
            raise InputError(
                f"table of shape {shape}; expected {self.n_users + self.n_items} rows: "
                f"{self.n_users} users, then {self.n_items} items"
            )
        self.dim = shape[1]

    def lookup(self) -> Lookup:
        """A function of ids to the rows that pairs are scored by, valid for one step."""
        return self._unit(self.table)

    def final(self) -> Tensor:
        """All rows (n, d) that pairs are scored by, without gradients."""
        training = self.training
        self.eval()
        with torch.no_grad():
            rows = self.lookup()(torch.arange(self.n_users + self.n_items)).float()
        self.train(training)
        return rows

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores (m,) of pairs of rows (m, d) and (m, d)."""
        return (users * items).sum(1)

    def block(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores (b, c) of rows (b, d) with rows (c, d)."""
        return users @ items.T

    def scorer(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function of users (b,) to scores (b, n_items) float32, for ``ranking.evaluate``."""
        rows = self.final()
        items = rows[self.n_users :]

        def scores(users: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return self.block(rows[torch.from_numpy(users)], items).numpy()

        return scores

    def _unit(self, lookup: Lookup) -> Lookup:
        if self.unit == "none":
            return lookup

        def unit_rows(ids: Tensor) -> Tensor:
            rows = lookup(ids)
            unit = F.normalize(rows, dim=-1)
            whole = self.unit == "both"
            return unit if whole else torch.where((ids < self.n_users)[..., None], unit, rows)

        return unit_rows


class LightGCN(MF):
    """LightGCN (arXiv 2002.02126): rows are averaged over the layers of the graph, then as MF.

    Args:
        layers: of propagation; 3 in the paper's best.
    """

    def __init__(
        self, table: nn.Module, train: csr_array, unit: Unit = "none", layers: int = 3
    ) -> None:
        super().__init__(table, train, unit)
        self.layers = layers
        self._adjacency = normalised_adjacency(train)

    def lookup(self) -> Lookup:
        rows = propagate(self._adjacency, self.table.rows().float(), self.layers)  # type: ignore[operator]
        return self._unit(lambda ids: F.embedding(ids, rows))


class NGCF(MF):
    """NGCF (arXiv 1905.08108, equations 7 and 10): layers with weights, rows of all layers joined.

    Each layer is LeakyReLU((Ã + I)·E·W₁ + (Ã·E ⊙ E)·W₂), of unit length as in the public code; rows
    of (layers + 1)·d numbers are compared by dot products.

    Args:
        layers: of propagation; 3 in the paper.
        dropout: shares of dropped messages, the entries of each layer before they are scaled to
            length 1 (as in the public code), and of nodes, whose messages to others are left out of
            a layer; what remains is scaled up. Only in training.
    """

    survives_rotation = False

    def __init__(
        self,
        table: nn.Module,
        train: csr_array,
        unit: Unit = "none",
        layers: int = 3,
        dropout: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        super().__init__(table, train, unit)
        if not all(0 <= share < 1 for share in dropout):
            raise InputError(f"dropout of {dropout}; expected two shares, 0 ≤ share < 1")
        d, self.layers, self.dropout = self.dim, layers, dropout
        self.sums = nn.ModuleList(nn.Linear(d, d) for _ in range(layers))
        self.products = nn.ModuleList(nn.Linear(d, d) for _ in range(layers))
        for linear in (*self.sums, *self.products):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self._adjacency = normalised_adjacency(train)

    def lookup(self) -> Lookup:
        x = self.table.rows().float()  # type: ignore[operator]
        layers, (of_messages, of_nodes) = [x], self.dropout
        for of_sum, of_product in zip(self.sums, self.products, strict=True):
            sent = F.dropout(x.new_ones(len(x), 1), of_nodes, self.training) * x
            near = neighbours(self._adjacency, sent)
            x = F.leaky_relu(of_sum(near + x) + of_product(near * x), 0.2)
            x = F.dropout(x, of_messages, self.training)
            layers.append(F.normalize(x, dim=1))
        rows = torch.cat(layers, 1)
        return self._unit(lambda ids: F.embedding(ids, rows))


class NCF(MF):
    """NeuMF (arXiv 1708.05031, equation 12) over one table.

    The first half of a row is for GMF, the other half for an MLP of d → d/2 → d/4; the score is a
    weighted sum of the 3·d/4 outputs of both. d must be a multiple of 4.
    """

    survives_rotation = False

    def __init__(self, table: nn.Module, train: csr_array, unit: Unit = "none") -> None:
        super().__init__(table, train, unit)
        d = self.dim
        if d % 4:
            raise InputError(f"NCF with d = {d}; expected a multiple of 4")
        self.first = nn.Linear(d, d // 2)
        self.second = nn.Linear(d // 2, d // 4)
        self.output = nn.Linear(d // 2 + d // 4, 1, bias=False)
        with torch.no_grad():
            self.output.weight[:, : d // 2] = 1  # GMF starts as plain matrix factorisation.

    def pairs(self, users: Tensor, items: Tensor) -> Tensor:
        half = self.dim // 2
        joint = torch.cat([users[:, half:], items[:, half:]], 1)
        hidden = torch.relu(self.second(torch.relu(self.first(joint))))
        return self.output(torch.cat([users[:, :half] * items[:, :half], hidden], 1))[:, 0]

    def block(self, users: Tensor, items: Tensor) -> Tensor:
        """Equal to ``pairs`` of every user with every item; the first layer is split by side."""
        half, first = self.dim // 2, self.first.weight
        gmf = (users[:, :half] * self.output.weight[0, :half]) @ items[:, :half].T
        of_users = users[:, half:] @ first[:, :half].T + self.first.bias
        of_items = items[:, half:] @ first[:, half:].T
        size = max(1, _PAIRS // max(1, len(items)))
        mlp = [
            torch.cat([self._mlp(some[:, None] + part) for part in of_items.split(_PAIRS)], 1)
            for some in of_users.split(size)
        ]
        return gmf + torch.cat(mlp)

    def _mlp(self, first: Tensor) -> Tensor:
        """Share of the score (b, c) of the MLP, after the first layer's sums (b, c, d/2)."""
        weights = self.output.weight[0, self.dim // 2 :]
        return self.second(first.relu_()).relu_() @ weights


_CLASSES: dict[str, type[MF]] = {"lightgcn": LightGCN, "mf": MF, "ncf": NCF, "ngcf": NGCF}
#: Models that ``recommender`` makes.
MODELS = tuple(_CLASSES)


def survives_rotation(model: str) -> bool:
    """Whether a model's scores are the same after all rows of its table are rotated."""
    return _CLASSES[model].survives_rotation


def recommender(
    model: str,
    table: nn.Module,
    train: csr_array,
    unit: Unit = "none",
    layers: int = 3,
    dropout: tuple[float, float] = (0.0, 0.0),
) -> MF:
    """Make one of ``MODELS``; ``layers`` is for LightGCN and NGCF, ``dropout`` for NGCF."""
    own: dict[str, Any] = {"layers": layers} if model in ("lightgcn", "ngcf") else {}
    if model == "ngcf":
        own["dropout"] = dropout
    return _CLASSES[model](table, train, unit, **own)

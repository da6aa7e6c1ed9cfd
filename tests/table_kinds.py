"""One small table of each kind, for the suites that run over all of them."""

import numpy as np
import torch

from compressae import CompresSAE, compress
from compressae.tables import (
    BudgetedTable,
    CodedTable,
    CompositionalTable,
    FullTable,
    HashedTable,
    Partitions,
    PathTable,
    PrunedTable,
    QuantizedTable,
    Table,
)

N, D = 23, 6
WIDTHS = [i % (D + 1) for i in range(N)]  # 0 and D among them.


def _given():
    """Complementary partitions of N ids in no order that arithmetic gives."""
    places = np.random.default_rng(0).permutation(N)
    return [places % 5, places // 5]


def _mask(n):
    return torch.rand(n, D, generator=torch.Generator().manual_seed(1)) < 0.4


def _coded(n, ragged, padding_idx=None, device=None, dtype=None):
    rows = np.random.default_rng(2).normal(size=(N, D))[-n:].astype(np.float32)
    model = CompresSAE(D, latents=12, nonzeros=3)
    sizes = {"budget": 6 * n + 12} if ragged else {}
    codes = compress(model, rows, value_type="int4", **sizes)
    return CodedTable(codes, torch.randn(12, D), padding_idx, device, dtype)


KINDS = {
    "full": lambda n=N, **s: FullTable(n, D, **s),
    "hashed": lambda n=N, **s: HashedTable(n, D, rows=min(n, 7), **s),
    "hashed-seeded": lambda n=N, **s: HashedTable(n, D, rows=min(n, 7), seed=3, **s),
    "product": lambda n=N, **s: CompositionalTable(n, D, **s),
    "add-3": lambda n=N, **s: CompositionalTable(
        n, D, Partitions("mixed-radix", (4, 3, 2)), "add", **s
    ),
    "concat-chinese": lambda n=N, **s: CompositionalTable(
        n, D, Partitions("chinese-remainder", (6, 5)), "concat", **s
    ),
    "product-given": lambda n=N, **s: CompositionalTable(
        n, D, _given() if n == N else [np.arange(n)], **s
    ),
    "path": lambda n=N, **s: PathTable(n, D, hidden=4, **s),
    "path-3": lambda n=N, **s: PathTable(n, D, Partitions("mixed-radix", (6, 2, 2)), hidden=3, **s),
    "budgeted": lambda n=N, **s: BudgetedTable(WIDTHS[-n:], D, **s),
    "pruned": lambda n=N, **s: PrunedTable(_mask(n), **s),
    "coded": lambda n=N, **s: _coded(n, False, **s),
    "coded-ragged": lambda n=N, **s: _coded(n, True, **s),
    "int8": lambda n=N, **s: QuantizedTable(n, D, 8, **s),
    "int4": lambda n=N, **s: QuantizedTable(n, D, 4, **s),
}
#: Those whose gradient is that of the forward pass: rounding's is not.
SMOOTH = [kind for kind in KINDS if not kind.startswith("int")]


def make(kind: str, n: int = N, **settings: object) -> Table:
    """A table of the kind, drawn with one seed."""
    torch.manual_seed(0)
    return KINDS[kind](n, **settings)

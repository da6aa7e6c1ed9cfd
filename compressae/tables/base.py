"""Base class of all tables: shared settings, id checks, padding, counts of numbers and bytes."""

from abc import ABC, abstractmethod
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from compressae.retrieval.errors import InputError


class TableSettings(TypedDict, total=False):
    """Keyword arguments of trainable tables, which ``Table`` documents."""

    padding_idx: int | None
    sparse: bool
    std: float
    device: Any
    dtype: torch.dtype | None


class Table(nn.Module, ABC):
    """n rows of d numbers, called like ``torch.nn.Embedding``: ids of any shape in, rows out.

    A subclass implements ``_lookup``, and ``_all_rows`` if it has a faster way to all rows.

    Args:
        num_embeddings: n ≥ 1.
        embedding_dim: d ≥ 1.
        padding_idx: an id whose row is zeros and gets no gradient, −n to n − 1; negative ids count
            from the end. ``from_dense`` defaults to the padding id of its source.
        sparse: return gradients as sparse tensors, of the looked-up rows only.
        std: standard deviation of a row's entries at initialisation.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        InputError: a size or the padding id is out of range.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        sparse: bool = False,
        std: float = 1.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_embeddings < 1 or embedding_dim < 1:
            raise InputError(
                f"a table of {num_embeddings} rows and {embedding_dim} dimensions: expected 1 or "
                "more of each"
            )
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise InputError(
                    f"padding_idx {padding_idx}: expected {-num_embeddings} to "
                    f"{num_embeddings - 1}, an id of the table"
                )
            padding_idx %= num_embeddings
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.sparse, self.std = sparse, std
        self._factory: dict[str, Any] = {"device": device, "dtype": dtype}

    def forward(self, ids: Tensor) -> Tensor:
        """Look up rows (*, d) of ids (*) int32 or int64: ``rows()[ids]``, differentiable.

        Raises:
            InputError: ids of another dtype or, on the CPU only, ids below 0 or above n − 1. A GPU
                would have to synchronise to check them.
        """
        flat = self._checked(ids).reshape(-1).long()
        rows = self._lookup(flat)
        if self.padding_idx is not None:
            rows = rows.masked_fill((flat == self.padding_idx)[:, None], 0)
        return rows.view(*ids.shape, self.embedding_dim)

    def rows(self, ids: Tensor | None = None) -> Tensor:
        """Reconstruct all rows (n, d), or those of ids; differentiable like an embedding weight."""
        if ids is not None:
            return self(ids)
        rows = self._all_rows()
        if self.padding_idx is not None:
            padding = torch.arange(self.num_embeddings, device=rows.device) == self.padding_idx
            rows = rows.masked_fill(padding[:, None], 0)
        return rows

    @property
    def num_parameters(self) -> int:
        """Count the trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def nbytes(self) -> int:
        """Count the bytes of parameters and of buffers, such as row lengths or codes."""
        tensors = [*self.parameters(), *self.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @abstractmethod
    def _lookup(self, ids: Tensor) -> Tensor:
        """Look up rows (m, d) of ids (m,) int64 that are in range."""

    def _all_rows(self) -> Tensor:
        device = next(iter([*self.parameters(), *self.buffers()])).device
        return self._lookup(torch.arange(self.num_embeddings, device=device))

    def _empty(self, *shape: int) -> nn.Parameter:
        """Allocate a parameter with the device and dtype of the settings."""
        return nn.Parameter(torch.empty(*shape, **self._factory))

    def _checked(self, ids: Tensor) -> Tensor:
        if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64):
            kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise InputError(f"ids of {kind}: expected a tensor of int32 or int64")
        if ids.device.type == "cpu" and ids.numel():
            least, most = int(ids.min()), int(ids.max())
            if least < 0 or most >= self.num_embeddings:
                raise InputError(
                    f"id {least if least < 0 else most}: expected 0 to {self.num_embeddings - 1}, "
                    "the table's rows"
                )
        return ids

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return (
            f"{self.num_embeddings}, {self.embedding_dim}{padding}, "
            f"parameters={self.num_parameters}, nbytes={self.nbytes}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def padding_of(source: Any, padding_idx: int | None) -> int | None:
    """Return ``padding_idx``, or if it is None that of ``source``, if it has one."""
    return getattr(source, "padding_idx", None) if padding_idx is None else padding_idx


def dense_rows(source: Any) -> Tensor:
    """Copy the dense rows (n, d) of a trained table, without gradient.

    Args:
        source: a table, an ``nn.Embedding``, or a tensor or array (n, d) of floats.

    Raises:
        InputError: it is none of these, or contains NaN or infinity.
    """
    with torch.no_grad():
        if isinstance(source, Table):
            rows = source.rows().clone()
        elif isinstance(source, nn.Embedding):
            rows = source.weight.detach().clone()
        elif isinstance(source, Tensor | np.ndarray):
            rows = torch.as_tensor(source).detach().clone()
        else:
            raise InputError(
                f"rows of {type(source).__name__}: expected a table, an nn.Embedding, or a tensor "
                "or array (n, d)"
            )
    if rows.ndim != 2 or not rows.is_floating_point():
        raise InputError(
            f"rows {tuple(rows.shape)} of {rows.dtype}: expected floating-point numbers (n, d)"
        )
    if not rows.isfinite().all():
        raise InputError("rows contain NaN or infinity: expected finite numbers; retrain the table")
    return rows

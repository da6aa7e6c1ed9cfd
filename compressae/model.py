"""CompresSAE: the sparse autoencoder (arXiv 2505.11388)."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from compressae import sparse_ops
from compressae.retrieval.errors import InputError
from compressae.retrieval.storage import load_artifact, save_artifact

if TYPE_CHECKING:
    from compressae.compress import PackedType
    from compressae.retrieval.codes import SparseCodes, ValueType
    from compressae.retrieval.packed import PackedCodes

KIND = "model"


@dataclass(frozen=True)
class Output:
    """What one pass over a batch gives. The first k of the wide code are the code itself.

    Attributes:
        indices: (n, w) int32 latents by descending |value|, w = min(4k, h), or k when not wide.
        values: (n, w) their signed values.
        reconstruction: (n, d) decoded from the first k.
        wide_reconstruction: (n, d) decoded from all w.
    """

    indices: Tensor
    values: Tensor
    reconstruction: Tensor
    wide_reconstruction: Tensor


class CompresSAE(nn.Module):
    """s = φ_k(W_enc·x/‖x‖ + b_enc), x̂ = W_dec·s; φ_k keeps the k largest |entries|, signed.

    Matrices are stored one row a latent: ``encoder`` (h, d), ``encoder_bias`` (h,) and ``decoder``
    (h, d), which is the paper's W_dec transposed, with rows of unit length.

    Args:
        dim: d, the width of the embeddings.
        latents: h.
        nonzeros: k, 1 ≤ k ≤ h.
        seed: of the paper's start: both matrices Kaiming-uniform, bias zero, decoder rows unit.

    Attributes:
        settings: how it was trained (empty where it was not); saved with the model.
    """

    settings: dict[str, Any]

    def __init__(self, dim: int, latents: int = 4096, nonzeros: int = 32, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= nonzeros <= latents:
            raise ValueError(f"nonzeros = {nonzeros}: expected 1 ≤ nonzeros ≤ latents = {latents}")
        self.dim, self.latents, self.nonzeros = dim, latents, nonzeros
        self.settings = {}
        generator = torch.Generator().manual_seed(seed)
        bound = math.sqrt(6 / dim)
        encoder, decoder = (
            torch.empty(latents, dim).uniform_(-bound, bound, generator=generator) for _ in range(2)
        )
        self.encoder = nn.Parameter(encoder)
        self.encoder_bias = nn.Parameter(torch.zeros(latents))
        self.decoder = nn.Parameter(nn.functional.normalize(decoder))

    def encode(self, x: Tensor, nonzeros: int | None = None) -> tuple[Tensor, Tensor]:
        """The code of one batch; differentiable.

        Args:
            x: (n, d) float32; rows are divided by their length here.
            nonzeros: another k than the model's.

        Returns:
            indices (n, k) int32 and values (n, k) float32, by descending |value|.
        """
        x = nn.functional.normalize(x)
        return sparse_ops.encode_topk(x, self.encoder, self.encoder_bias, nonzeros or self.nonzeros)

    def decode(self, indices: Tensor, values: Tensor) -> Tensor:
        """x̂ (n, d) = Σ_j values[:, j] · decoder[indices[:, j]]; differentiable."""
        return sparse_ops.decode(indices, values, self.decoder)

    def forward(self, x: Tensor, wide: bool = True) -> Output:
        """Encode once at 4k (k when not ``wide``) and decode both codes; x is (n, d)."""
        k = self.nonzeros
        indices, values = self.encode(x, min(4 * k, self.latents) if wide else k)
        near = self.decode(indices[:, :k], values[:, :k])
        rest = indices.shape[1] > k
        far = near + self.decode(indices[:, k:], values[:, k:]) if rest else near
        return Output(indices, values, near, far)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Give every decoder row unit length."""
        self.decoder.copy_(nn.functional.normalize(self.decoder))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove each decoder row's gradient along the row, which the unit length undoes anyway.

        To be called before the optimiser's step, so that its moments never see that part.
        """
        grad = self.decoder.grad
        if grad is not None:
            grad -= (grad * self.decoder).sum(1, keepdim=True) * self.decoder

    @property
    def model_id(self) -> str:
        """A fingerprint of the weights, which codes keep so that they meet their own model."""
        digest = hashlib.sha256()
        for name, array in self.arrays().items():
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def compress(
        self,
        items: Any,
        values: "ValueType | PackedType | None" = None,
        nonzeros: int | None = None,
        refit: bool | None = None,
        residual_bytes: int = 0,
        budget: str | int | None = None,
        weights: Any = None,
        like: "PackedCodes | None" = None,
        progress: Callable[[int, int], None] | None = None,
        device: str = "auto",
    ) -> "SparseCodes | PackedCodes":
        """Codes of a whole table; see ``compressae.compress.compress``."""
        from compressae.compress import compress

        return compress(
            self, items, values, nonzeros, refit, residual_bytes, budget, weights, like, progress,
            device,
        )  # fmt: skip

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model as a folder: config.json and model.safetensors."""
        save_artifact(path, KIND, self.artifact_settings(), {"model": self.arrays()})

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "CompresSAE":
        """Read a folder that ``save_pretrained`` wrote.

        Raises:
            InputError: it is no whole model; the message names the file.
        """
        artifact = load_artifact(path, KIND)
        return cls.from_arrays(artifact.settings, artifact.tensors["model"], str(path))

    @classmethod
    def from_arrays(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], name: str
    ) -> "CompresSAE":
        """A model from its saved settings and weights; ``name`` is for the error message."""
        h, d = settings["latents"], settings["dim"]
        expected = {"encoder": (h, d), "encoder_bias": (h,), "decoder": (h, d)}
        found = {key: array.shape for key, array in arrays.items()}
        if found != expected:
            raise InputError(f"{name}: weights {found}; expected {expected}; save the model again")
        model = cls(d, h, settings["nonzeros"])
        for key, parameter in model.named_parameters():
            if not np.isfinite(arrays[key]).all():
                raise InputError(f"{name}: {key} holds NaN or infinity; train the model again")
            parameter.data.copy_(torch.from_numpy(np.array(arrays[key])))
        model.settings = settings["training"]
        return model

    def artifact_settings(self) -> dict[str, Any]:
        """What a saved folder records beside the weights."""
        return {
            "dim": self.dim,
            "latents": self.latents,
            "nonzeros": self.nonzeros,
            "training": self.settings,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by name, as numpy arrays on the CPU."""
        return {name: p.detach().cpu().numpy() for name, p in self.named_parameters()}

"""CompresSAE: the sparse autoencoder (arXiv 2505.11388)."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressae import model_ops
from compressae.card import model_card
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.io.embeddings import Similarity
from compressae.retrieval.io.hub import as_hub_url, upload


@dataclass(frozen=True)
class Output:
    """The output of one forward pass. The first k nonzeros of the wide code are the code itself.

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
        seed: of the initialisation: both matrices Kaiming-uniform as in the published code (the
            encoder within ±√(6/h)), bias zero, decoder rows of unit length.

    Attributes:
        settings: how it was trained (empty where it was not); saved with the model.

    >>> model = CompresSAE(dim=8, latents=32, nonzeros=4)
    >>> indices, values = model.encode(torch.ones(2, 8))
    >>> tuple(indices.shape), tuple(model.decode(indices, values).shape)
    ((2, 4), (2, 8))
    """

    settings: dict[str, Any]

    def __init__(self, dim: int, latents: int = 4096, nonzeros: int = 32, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= nonzeros <= latents:
            raise ValueError(f"nonzeros = {nonzeros}: expected 1 ≤ nonzeros ≤ latents = {latents}")
        self.dim, self.latents, self.nonzeros = dim, latents, nonzeros
        self.settings = {}
        generator = torch.Generator().manual_seed(seed)
        encoder, decoder = (
            torch.empty(latents, dim).uniform_(-bound, bound, generator=generator)
            for bound in (math.sqrt(6 / latents), math.sqrt(6 / dim))
        )
        self.encoder = nn.Parameter(encoder)
        self.encoder_bias = nn.Parameter(torch.zeros(latents))
        self.decoder = nn.Parameter(nn.functional.normalize(decoder))

    def encode(self, x: Tensor, nonzeros: int | None = None) -> tuple[Tensor, Tensor]:
        """Encode one batch; differentiable.

        Args:
            x: (n, d) float32; rows are divided by their length here.
            nonzeros: another k than the model's.

        Returns:
            indices (n, k) int32 and values (n, k) float32, by descending |value|.
        """
        x = nn.functional.normalize(x)
        return model_ops.encode_topk(x, self.encoder, self.encoder_bias, nonzeros or self.nonzeros)

    def decode(self, indices: Tensor, values: Tensor) -> Tensor:
        """x̂ (n, d) = Σ_j values[:, j] · decoder[indices[:, j]]; differentiable."""
        return model_ops.decode(indices, values, self.decoder)

    def forward(self, x: Tensor, wide: bool = True) -> Output:
        """Encode x (n, d) once, at 4k nonzeros (k when not ``wide``), and decode both codes."""
        k = self.nonzeros
        indices, values = self.encode(x, min(4 * k, self.latents) if wide else k)
        reconstruction = wide_reconstruction = self.decode(indices[:, :k], values[:, :k])
        if indices.shape[1] > k:
            wide_reconstruction = reconstruction + self.decode(indices[:, k:], values[:, k:])
        return Output(indices, values, reconstruction, wide_reconstruction)

    @torch.no_grad()
    def normalize_decoder(self) -> None:
        """Normalise every decoder row to unit length."""
        self.decoder.copy_(nn.functional.normalize(self.decoder))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from each decoder row's gradient its component along the row.

        Call it before the optimiser's step, so that the moments never see that component, which
        the unit length cancels anyway.
        """
        grad = self.decoder.grad
        if grad is not None:
            grad -= (grad * self.decoder).sum(1, keepdim=True) * self.decoder

    @property
    def projection(self) -> Projection:
        """The weights as arrays, as a search needs them; of the same memory on the CPU."""
        arrays = {name: p.detach().cpu().numpy() for name, p in self.named_parameters()}
        return Projection(**arrays, nonzeros=self.nonzeros, training=self.settings)

    @classmethod
    def from_projection(cls, projection: Projection) -> "CompresSAE":
        """A model of a projection's weights, copied: of ``CompressedIndex.projection``, say."""
        model = cls(projection.dim, projection.latents, projection.nonzeros)
        for name, parameter in model.named_parameters():
            parameter.data.copy_(torch.tensor(getattr(projection, name)))
        model.settings = projection.training
        return model

    @property
    def similarity(self) -> Similarity:
        """What the model was trained for, which its codes are made for unless told: "cosine" or
        "dot"."""
        return self.projection.similarity

    @property
    def model_id(self) -> str:
        """Fingerprint of the weights; codes keep that of the model that made them."""
        return self.projection.model_id

    def extra_repr(self) -> str:
        recipe = self.settings.get("recipe", "not trained")
        return f"dim={self.dim}, latents={self.latents}, nonzeros={self.nonzeros}, {recipe}"

    def save(self, path: str | Path) -> None:
        """Write the model as a folder: config.json and model.safetensors.

        Raises:
            InputError: the folder cannot be written; what was there is unchanged.
        """
        self.projection.save(path)

    @classmethod
    def load(cls, path: str | Path) -> "CompresSAE":
        """Read a model folder.

        Args:
            path: the folder, or its URL: ``s3://bucket/model``, ``hf://owner/name``.

        Raises:
            InputError: no whole model; the message names the file.
        """
        return cls.from_projection(Projection.load(path))

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> "CompresSAE":
        """Read a model from a folder, or from the Hugging Face Hub through its cache.

        Private repositories are read with what ``hf auth login`` or ``HF_TOKEN`` gave.

        Args:
            name: a folder, ``owner/name``, or ``hf://owner/name/folder``. A folder comes first.
            revision: a branch, tag or commit of the repository; the default branch when None.

        Raises:
            InputError: neither; or see ``load``.
            MissingExtraError: huggingface_hub is not installed.

        >>> import tempfile
        >>> model = CompresSAE(dim=8, latents=32, nonzeros=4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/shoes")
        ...     CompresSAE.from_pretrained(f"{folder}/shoes").model_id == model.model_id
        True
        """
        is_folder = Path(name).is_dir()
        url = None if is_folder else as_hub_url(str(name), revision)
        if is_folder and revision is not None:
            raise InputError(f"{name}: a folder, which has no revisions; leave out {revision!r}")
        if not is_folder and url is None:
            raise InputError(f"{name}: no such folder; expected one, or owner/name of the Hub")
        return cls.load(url or name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        report: str | Path | dict[str, Any] | None = None,
        license: str | None = None,
        private: bool | None = None,
        branch: str | None = None,
        commit_message: str = "Upload model",
    ) -> str:
        """Upload the model to the Hugging Face Hub, with a card of what was measured.

        config.json and model.safetensors are those of ``save``. A README.md that is there is
        replaced. Log in first: ``hf auth login``, or ``HF_TOKEN``.

        Args:
            repo_id: owner/name; made if there is none.
            report: of ``compressae evaluate`` with this model, for the card: its folder, its
                report.json or what that holds.
            license: identifier of the Hub, such as "mit".
            private: whether a new repository is; what the account prefers when None.
            branch: made if there is none; the default branch when None.
            commit_message: of the one commit.

        Returns:
            URL of the commit.

        Raises:
            InputError: the report is of another model; no permission; or the Hub cannot be reached.
            MissingExtraError: huggingface_hub is not installed.
        """
        card = model_card(self.projection, repo_id, report, license)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model")
            self.save(path)
            (path / "README.md").write_text(card, encoding="utf-8")
            return upload(path, repo_id, private=private, branch=branch, message=commit_message)

"""Codes in a pipeline of sentence-transformers: texts in, sparse tensors out."""

import json
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from compressae.coding.coder import Coder
from compressae.coding.compress import check_width
from compressae.model import CompresSAE
from compressae.retrieval.codes.quantizer import fit_error_weighting
from compressae.retrieval.errors import InputError, MissingExtraError
from compressae.retrieval.io.embeddings import as_embeddings, check_rows, split_lengths

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SparseEncoder

try:
    from sentence_transformers.base.modules import Module
except ImportError:  # Said by what needs it, so that this file can be imported without it.
    Module = nn.Module

#: Rows of a sample that the error weighting is fitted to, at most.
_SAMPLE_ROWS = 1 << 16
_MODEL, _WEIGHTING = "model", "error_weighting.safetensors"


class SparseCoder(Module):
    """The last module of a ``SparseEncoder``: embeddings of texts as signed sparse vectors.

    A document becomes its code: the model's k latents with least-squares values, as
    ``encode(model, …, "float32")`` makes them; with similarity "dot" times its length. A query
    becomes q' = W·x, dense in the latents, or its largest entries. The dot product of both is the
    score that ``CompressedIndex`` gives. Documents are coded on the CPU, and without gradients.

    One module serves both: ``encode_query`` and ``encode_document`` of the pipeline say which, by
    a ``Router`` or without. What is neither is a document.

    Args:
        model: a trained model, of embeddings as the modules before this one give them.
        sample: (m, d) such embeddings of documents, by which errors are weighted, as ``encode``
            does by the table; errors count equally when None.
        nonzeros: k of documents; the model's when None.
        query_nonzeros: entries of a query, the largest; all of them when None.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        InputError: nonzeros outside 1…h, or a sample of another width.
    """

    forward_kwargs = {"task"}  # noqa: RUF012 (as the class above declares it)
    config_keys = ["nonzeros", "query_nonzeros"]  # noqa: RUF012

    def __init__(
        self,
        model: CompresSAE,
        sample: Any = None,
        nonzeros: int | None = None,
        query_nonzeros: int | None = None,
    ) -> None:
        _require()
        super().__init__()
        for name, count in (("nonzeros", nonzeros), ("query nonzeros", query_nonzeros)):
            if count is not None and not 1 <= count <= model.latents:
                raise InputError(f"{count} {name}; expected 1 to {model.latents}, the latents")
        self.model = model
        self.nonzeros, self.query_nonzeros = nonzeros, query_nonzeros
        self.error_weighting = np.eye(model.dim, dtype=np.float32)
        if sample is not None:
            table = as_embeddings(sample, "sample").compared_by(model.similarity)
            check_width(model, table)
            rows = np.unique(np.linspace(0, len(table) - 1, min(len(table), _SAMPLE_ROWS)))
            unit, lengths = split_lengths(table.take(rows.astype(np.int64)))
            self.error_weighting = fit_error_weighting(unit[lengths > 0])

    @cached_property
    def _coder(self) -> Coder:
        """Of documents, on the CPU."""
        model = CompresSAE.from_projection(self.model.projection)
        recipe = model.settings.get("recipe")
        return Coder(model, self.error_weighting, recipe == "pursuit", recipe != "paper")

    def forward(self, features: dict[str, Any], task: str | None = None) -> dict[str, Any]:
        """Replace ``features["sentence_embedding"]`` (m, d) by codes or projections (m, h)."""
        x = features["sentence_embedding"]
        if x.shape[1] != self.model.dim:
            raise InputError(
                f"sentence embeddings of {x.shape[1]} columns; expected {self.model.dim}, the "
                "width of the model"
            )
        project = self._queries if task == "query" else self._documents
        features["sentence_embedding"] = project(x).to(x.dtype)
        return features

    def _queries(self, x: Tensor) -> Tensor:
        """q' = W·x (m, h)."""
        if self.model.similarity == "cosine":
            x = nn.functional.normalize(x)
        projected = x.to(self.model.decoder.dtype) @ self.model.decoder.T
        if self.query_nonzeros is None:
            return projected
        chosen = projected.abs().topk(self.query_nonzeros, dim=1).indices
        return torch.zeros_like(projected).scatter(1, chosen, projected.gather(1, chosen))

    @torch.no_grad()
    def _documents(self, x: Tensor) -> Tensor:
        """Codes (m, h)."""
        is_dot = self.model.similarity == "dot"
        rows = x.detach().float().cpu().numpy()
        check_rows(rows, "sentence embeddings", zeros=is_dot)
        unit, lengths = split_lengths(rows)
        ids, values = self._coder.code(unit, self.nonzeros or self.model.nonzeros)
        values = values * self._coder.scales(unit, ids, values)[:, None]
        if is_dot:
            values = values * lengths[:, None]
        codes = torch.zeros(len(rows), self.model.latents)
        codes.scatter_(1, torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(values))
        return codes.to(x.device)

    def get_embedding_dimension(self) -> int:
        """h."""
        return self.model.latents

    def save(self, output_path: str, *arguments: Any, **settings: Any) -> None:
        """Write config.json, the error weighting, and the model as a folder of its own."""
        self.save_config(output_path)
        weights = {"error_weighting": np.ascontiguousarray(self.error_weighting)}
        save_file(weights, Path(output_path, _WEIGHTING))
        self.model.save(Path(output_path, _MODEL))

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **settings: Any) -> "SparseCoder":
        """Read what ``save`` wrote, from a folder or the Hugging Face Hub."""
        names = ("token", "cache_folder", "revision", "local_files_only")
        place = {name: settings[name] for name in names if name in settings}
        path = cls.load_dir_path(model_name_or_path, subfolder, **place)
        if path is None:
            raise InputError(f"{model_name_or_path}: no folder {subfolder!r} of a SparseCoder")
        with tempfile.TemporaryDirectory() as folder:
            copied = shutil.copytree(path, Path(folder, "coder"))  # Links of the cache followed.
            config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
            module = cls(CompresSAE.load(copied / _MODEL), **config)
            module.error_weighting = _weighting(copied / _WEIGHTING, module.model.dim)
        return module


def _weighting(path: Path, dim: int) -> np.ndarray:
    """The error weighting (d, d) of a file.

    Raises:
        InputError: it is something else.
    """
    try:
        weighting: np.ndarray = load_file(path)["error_weighting"]
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(f"{path.name}: {error}; save the pipeline again") from error
    if weighting.shape != (dim, dim) or weighting.dtype != np.float32:
        raise InputError(
            f"{path.name}: {weighting.dtype} of shape {weighting.shape}; expected float32 of shape "
            f"{(dim, dim)}; save the pipeline again"
        )
    if not np.isfinite(weighting).all():
        raise InputError(f"{path.name}: NaN or infinity; save the pipeline again")
    return weighting


def sparse_encoder(
    encoder: "SentenceTransformer", model: CompresSAE, sample: Any = None, **settings: Any
) -> "SparseEncoder":
    """Append codes to a sentence encoder: a ``SparseEncoder`` of sentence-transformers.

    ``encode_document`` gives codes, ``encode_query`` q' = W·x, as sparse COO tensors that
    ``InvertedIndex`` and ``Catalogue.create(path, None, …)`` take, and so every export.

    ``save_pretrained`` writes it whole. Loading needs ``trust_remote_code=True``, since the module
    is of this package and not of sentence-transformers.

    Args:
        encoder: gives the embeddings that the model was trained on.
        model: a trained model.
        sample: see ``SparseCoder``.
        settings: of ``SparseCoder``.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        InputError: the encoder's width is not the model's; or see ``SparseCoder``.
    """
    library = _require()
    width = encoder.get_embedding_dimension()
    if width != model.dim:
        raise InputError(f"an encoder of {width} dimensions; expected {model.dim}, the model's")
    coder = SparseCoder(model, sample, **settings)
    pipeline: SparseEncoder = library.SparseEncoder(modules=[*encoder, coder])
    return pipeline.to(encoder.device)


def stock_autoencoder(model: CompresSAE) -> Any:
    """The model's encoder as sentence-transformers' own ``SparseAutoEncoder``, which loads without
    ``trust_remote_code``.

    Its 2h latents are the halves [max(s, 0), max(−s, 0)] of the code s of ``model.encode``, because
    it knows no negative values: same latents, same values. Queries become codes, too. Products of
    values of unlike signs, which count in s·s', are lost, and with them some recall. Documents are
    coded by the encoder alone, not by pursuit.

    Args:
        model: a trained model. Embeddings must come with unit length: put a ``Normalize`` before.

    Returns:
        ``SparseAutoEncoder`` of d inputs, 2h latents and k nonzeros.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
    """
    _require()
    from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

    latents = 2 * model.latents
    stock = SparseAutoEncoder(model.dim, latents, model.nonzeros, k_aux=min(512, latents))
    with torch.no_grad():
        stock.encoder.weight.copy_(torch.cat([model.encoder, -model.encoder]))
        stock.latent_bias.copy_(torch.cat([model.encoder_bias, -model.encoder_bias]))
    return stock.eval()


def _require() -> Any:
    """Import sentence-transformers.

    Raises:
        MissingExtraError: it is not installed, or is older than 6.
    """
    try:
        import sentence_transformers
        import sentence_transformers.base.modules
    except ImportError:
        raise MissingExtraError("sentence-transformers", "text", "a pipeline of texts") from None
    return sentence_transformers

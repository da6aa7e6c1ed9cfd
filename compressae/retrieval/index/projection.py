"""Projection: the weights of a model that a search needs, as arrays."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compressae.kernels.product import IntMatrix, product, recover_entries
from compressae.kernels.topk import abs_topk
from compressae.retrieval.codes import Codes
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.retrieval.io.embeddings import Similarity, check_similarity
from compressae.retrieval.io.schema import Positive, checked

KIND = "model"
#: Name of a decoder in whole numbers of 4 bits, which is the encoder too.
_IN_4_BITS = "decoder_4_bits"


@dataclass(frozen=True)
class _Settings:
    """What a file says of a model beside its weights."""

    dim: Positive
    latents: Positive
    nonzeros: Positive
    training: dict[str, Any]


class Projection:
    """Weights of a trained model as arrays: all that a search on a CPU needs of it.

    ``CompresSAE.projection`` gives one, ``CompresSAE.from_projection`` takes one back.

    Args:
        decoder: W (h, d) float32, unit rows: q' = W·x. Or in whole numbers of 4 bits, as training
            with ``decoder_bits=4`` leaves them, which a search holds and a file stores.
        encoder: (h, d) float32, used by the paper's two scorings; the decoder when None.
        encoder_bias: (h,) float32; zeros when None.
        nonzeros: k that the model was trained at.
        training: settings of the training, empty where it was not trained.

    >>> W = np.eye(4, dtype=np.float32)
    >>> Projection(W, W, np.zeros(4, np.float32), nonzeros=2)
    Projection(4 latents of 4 dimensions, k = 2, model e6a481b5719c61e2)
    """

    def __init__(
        self,
        decoder: np.ndarray | IntMatrix,
        encoder: np.ndarray | None,
        encoder_bias: np.ndarray | None,
        nonzeros: int,
        training: dict[str, Any] | None = None,
    ) -> None:
        self.nonzeros, self.training = nonzeros, training or {}
        self._decoder, self._encoder, self._encoder_bias = decoder, encoder, encoder_bias

    @cached_property
    def _packed(self) -> IntMatrix | None:
        """The decoder in 4 bits, where training left it so and it is the encoder too."""
        given, encoder, bias = self._decoder, self._encoder, self._encoder_bias
        if isinstance(given, IntMatrix):
            return given
        is_tied = encoder is None or np.array_equal(encoder, given)
        if self.training.get("decoder_bits") != 4 or not is_tied or np.any(bias):
            return None
        entries = recover_entries(given)
        return None if entries is None else IntMatrix.of_entries(entries)

    @cached_property
    def decoder(self) -> np.ndarray:
        """W (h, d) float32, unit rows."""
        given = self._decoder
        return given.to_float32() if isinstance(given, IntMatrix) else given

    @property
    def encoder(self) -> np.ndarray:
        """Encoder (h, d) float32."""
        return self.decoder if self._encoder is None else self._encoder

    @cached_property
    def encoder_bias(self) -> np.ndarray:
        """Bias (h,) float32."""
        bias = self._encoder_bias
        return np.zeros(self.latents, np.float32) if bias is None else bias

    @cached_property
    def int_matrix(self) -> IntMatrix:
        """W in whole numbers: as trained in 4 bits, or rounded to 8."""
        return IntMatrix.of(self.decoder) if self._packed is None else self._packed

    @property
    def latents(self) -> int:
        """h."""
        given = self._decoder
        return len(given.rows if isinstance(given, IntMatrix) else given)

    @property
    def dim(self) -> int:
        """d."""
        given = self._decoder
        return given.dim if isinstance(given, IntMatrix) else given.shape[1]

    @property
    def similarity(self) -> Similarity:
        """What the model was trained for: "cosine" or "dot"."""
        similarity: Similarity = self.training.get("similarity", "cosine")
        return similarity

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.latents:,} latents of {self.dim} dimensions, "
            f"k = {self.nonzeros}, model {self.model_id})"
        )

    @cached_property
    def model_id(self) -> str:
        """Fingerprint of the weights; codes keep that of the model that made them."""
        digest = hashlib.sha256()
        for name, array in self.arrays().items():
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @property
    def encoder_nbytes(self) -> int:
        """Bytes of the encoder and its bias."""
        return self.encoder.nbytes + self.encoder_bias.nbytes

    def encode(self, x: np.ndarray, nonzeros: int) -> tuple[np.ndarray, np.ndarray]:
        """Encode unit rows x (q, d) as the model's encoder does.

        Returns:
            ids (q, k) int32 and values (q, k) float32, by descending |value|.
        """
        return abs_topk(x @ self.encoder.T + self.encoder_bias, nonzeros)

    def project(self, x: np.ndarray) -> np.ndarray:
        """Project unit rows x (q, d) on the latents: q' = W·x (q, h) float32.

        With a decoder of 4 bits rows are rounded to 16 bits, else it is the float32 product.
        """
        return x @ self.decoder.T if self._packed is None else product(self._packed, x)

    def check_made(self, model_id: str | None) -> None:
        """Refuse codes of another model.

        Raises:
            InputError: ``model_id`` is not this model's.
        """
        if model_id != self.model_id:
            raise InputError(
                f"codes of model {model_id}, but this is model {self.model_id}; "
                "give the model that encoded them, or encode again"
            )

    def check_codes(self, codes: Codes) -> None:
        """Refuse codes that cannot be searched with this model.

        Raises:
            InputError: codes of another model, number of latents or width.
        """
        self.check_made(codes.model_id)
        width = codes.residual_dim or self.dim
        if codes.latents != self.latents or width != self.dim:
            raise InputError(
                f"codes over {codes.latents} latents, of rows of {width}; expected {self.latents} "
                f"and {self.dim}, those of the model; encode the table again"
            )
        check_similarity(codes.similarity)

    def artifact_settings(self) -> dict[str, Any]:
        """What a saved folder records beside the weights."""
        return {
            "dim": self.dim,
            "latents": self.latents,
            "nonzeros": self.nonzeros,
            "training": self.training,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by name, as files hold them."""
        if self._packed is not None:
            return {_IN_4_BITS: self._packed.rows}
        return {
            "encoder": self.encoder,
            "encoder_bias": self.encoder_bias,
            "decoder": self.decoder,
        }

    @classmethod
    def from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], name: str
    ) -> "Projection":
        """A projection of what ``artifact_settings`` and ``arrays`` gave.

        Args:
            settings, arrays: of a saved folder, not trusted.
            name: for error messages.

        Raises:
            InputError: weights of another shape or dtype, NaN or infinity.
        """
        own = checked(settings, _Settings, f"{name}: model", "save the model again")
        h, d, k = own.latents, own.dim, own.nonzeros
        if not 1 <= k <= h:
            raise InputError(f"{name}: {k} nonzeros of {h} latents; save the model again")
        arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        shapes = {key: array.shape for key, array in arrays.items()}
        if shapes.keys() == {_IN_4_BITS} and shapes[_IN_4_BITS][:1] == (h,):
            try:
                matrix = IntMatrix.of_packed(np.array(arrays[_IN_4_BITS]), d)
            except ValueError as error:
                raise InputError(f"{name}: {_IN_4_BITS}: {error}; save the model again") from error
            return cls(matrix, None, None, k, own.training)
        expected = {"encoder": (h, d), "encoder_bias": (h,), "decoder": (h, d)}
        if shapes != expected:
            raise InputError(f"{name}: weights {shapes}; expected {expected}; save the model again")
        for key, array in arrays.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise InputError(
                    f"{name}: {key} holds NaN or infinity, or {array.dtype} numbers; expected "
                    "finite float32; train the model again"
                )
        return cls(**arrays, nonzeros=k, training=own.training)

    def save(self, path: str | Path) -> None:
        """Write the weights as a model folder: config.json and model.safetensors.

        Raises:
            InputError: the folder cannot be written; what was there is unchanged.
        """
        save_artifact(path, KIND, self.artifact_settings(), {KIND: self.arrays()})

    @classmethod
    def load(cls, path: str | Path) -> "Projection":
        """Read a model folder without torch.

        Raises:
            InputError: no whole model; the message names the file.
        """
        artifact = load_artifact(path, KIND)
        return cls.from_parts(artifact.settings, artifact.tensors.get(KIND, {}), str(path))

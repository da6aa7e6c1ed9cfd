"""FittedQuantizer: what all packed codes of a table share, saved before any row is coded."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from compressae.retrieval.codes.base import check_made
from compressae.retrieval.codes.quantizer import RowQuantizer
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.retrieval.io.embeddings import Similarity
from compressae.retrieval.io.schema import Range, checked

KIND = "quantizer"
_STEM = "quantizer"


@dataclass(frozen=True)
class _Settings:
    """What a file says of a quantiser beside its arrays."""

    latents: Annotated[int, Range(1, 1 << 31)]
    model_id: str | None
    made: dict[str, Any]
    least_benefit: float | None
    longest: float


@dataclass(frozen=True, eq=False)
class FittedQuantizer:
    """What all packed codes of a table share: the quantiser, and how rows are coded with it.

    Codes made with one quantiser stand in one index, and a row's bytes do not depend on the rows
    beside it: parts of a table may be coded apart, by ``compress(…, like=quantizer)``.

    Attributes:
        quantizer: of the rows.
        model_id: fingerprint of the model that it was fitted for.
        settings: how codes are made.
        least_benefit: nonzeros of less importance · error reduction are left out of a row; None
            where all rows have K.
        longest: length of the longest row that it was fitted to; 1 for cosine.

    Raises:
        InputError: a number is out of its range.
    """

    quantizer: RowQuantizer
    model_id: str | None
    settings: dict[str, Any]
    least_benefit: float | None = None
    longest: float = 1.0

    def __post_init__(self) -> None:
        if self.least_benefit is not None and not 0 <= self.least_benefit < float("inf"):
            raise InputError(f"quantiser: least benefit {self.least_benefit}; expected 0 or more")
        if not 0 < self.longest < float("inf"):
            raise InputError(f"quantiser: longest row of {self.longest}; expected more than 0")

    def __repr__(self) -> str:
        q = self.quantizer
        return (
            f"FittedQuantizer({q.nonzeros} nonzeros over {q.latents:,} latents, "
            f"{q.residual_bytes} residual bytes, model {self.model_id})"
        )

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the arrays."""
        digest = hashlib.sha256(f"{self.quantizer.latents} {self.model_id}".encode())
        for name, array in sorted(self.quantizer.arrays().items()):
            digest.update(f" {name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def similarity(self) -> Similarity:
        """ "cosine" or "dot"; see ``Codes.similarity``."""
        similarity: Similarity = self.settings.get("similarity", "cosine")
        return similarity

    def save(self, path: str | Path) -> None:
        """Write the quantiser as a folder, whole or not at all.

        Raises:
            InputError: the folder cannot be written; what was there is unchanged.
        """
        settings = {
            "latents": self.quantizer.latents,
            "model_id": self.model_id,
            "made": self.settings,
            "least_benefit": self.least_benefit,
            "longest": self.longest,
        }
        save_artifact(path, KIND, settings, {_STEM: self.quantizer.stored_arrays()})

    @classmethod
    def load(cls, path: str | Path) -> "FittedQuantizer":
        """Open a saved quantiser.

        Raises:
            InputError: no whole quantiser; the message names the file.
        """
        artifact = load_artifact(path, KIND)
        name, cure = str(path), "fit the quantiser again"
        own = checked(artifact.settings, _Settings, name, cure)
        check_made(own.made, name, cure)
        if _STEM not in artifact.tensors:
            raise InputError(f"{path}: holds no quantiser; fit it again")
        quantizer = RowQuantizer.from_arrays(own.latents, artifact.tensors[_STEM])
        return cls(quantizer, own.model_id, own.made, own.least_benefit, own.longest)

"""What a batch gives to training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gradients:
    """Cosines, codes and gradients of a batch of n rows.

    Attributes:
        cosines: (1, n) cos(x, x̂) at k nonzeros, or (2, n): at k and at w > k.
        ids, values: (n, k) int32 and float32, the codes by descending |value|.
        encoder, bias, decoder: gradients (h, d), (h,) and (h, d) float32.
    """

    cosines: "Tensor"
    ids: "Tensor"
    values: "Tensor"
    encoder: "Tensor"
    bias: "Tensor"
    decoder: "Tensor"

"""Choose the support of a row: the k latents whose least-squares fit leaves the least error.

Orthogonal least squares (Chen, Billings and Luo 1989): each step takes the latent that reduces the
error of the refitted row most. Orthogonal matching pursuit takes the one of largest |W r| instead,
which leaves more error. Rows and latents are multiplied once;
every later step follows from the Gram matrix of the latents (Batch-OMP: Rubinstein, Zibulevsky and
Elad 2008). On a CPU, products are those of int16 numbers, summed in int32: exact, so that the
support of a row depends neither on the other rows nor on the number of threads. On a GPU they are
rounded to bfloat16.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from compressae.kernels.backend import uses_triton
from compressae.kernels.support import cpu
from compressae.kernels.threads import over_rows

#: Most latents: their Gram matrix takes 1 GiB.
MOST_LATENTS = 23_104
#: Latents are padded to a multiple of this.
_LANES = 64
#: A row of the Gram matrix alone takes so many times as long as one of all of them.
_ALONE = 4


class Dictionary:
    """Latents as ``select_latents`` reads them, with their Gram matrix; see ``arrays``.

    The Gram matrix takes 2·h² bytes. On a CPU it is computed when many rows have come; for few rows
    only those of its rows that they need are.

    >>> dictionary = Dictionary(np.eye(3, dtype=np.float32))
    >>> dictionary.latents, dictionary.dim
    (3, 3)
    """

    #: Latents (h', d') int16, the same in panels, their Gram matrix (h', h') int16, and which of
    #: its rows are filled; h' and d' are padded. On a GPU what ``support.gpu.prepare`` returns.
    arrays: tuple[Any, ...]

    def __init__(self, weights: Any) -> None:
        """Take the latents weights (h, d) float32, of any length above 0: an array, or a tensor on
        a GPU.

        Raises:
            ValueError: the Gram matrix would take more than 1 GiB; see ``fits``.
        """
        self.latents, self.dim = weights.shape
        if not self.fits(self.latents):
            raise ValueError(f"{self.latents} latents: expected a Gram matrix of at most 1 GiB")
        self.is_on_gpu = uses_triton(weights)
        if self.is_on_gpu:
            from compressae.kernels.support import gpu

            self.arrays = gpu.prepare(weights)
            return
        padded = -(-self.latents // _LANES) * _LANES
        rows = np.zeros((padded, self.dim + self.dim % 2), np.int16)
        cpu.to_int16(np.require(weights, np.float32, ["C", "W"]), rows, 0, self.latents)
        gram, is_filled = np.empty((padded, padded), np.int16), np.zeros(padded, np.bool_)
        self.arrays = (rows, cpu.to_panels(rows), gram, is_filled)
        self._chosen = 0

    @staticmethod
    def fits(latents: int) -> bool:
        """Whether the Gram matrix of so many latents takes at most 1 GiB."""
        return latents <= MOST_LATENTS

    def prepare(self, choices: int, threads: int | None = None) -> bool:
        """Compute the whole Gram matrix, once single rows of it would take as long.

        Args:
            choices: latents that are to be chosen now; calls add up.
            threads: see ``select_latents``.

        Returns:
            Whether the matrix is there.
        """
        rows, panels, gram, is_filled = self.arrays
        self._chosen += choices
        if _ALONE * self._chosen < self.latents:
            return False
        if not is_filled.all():
            over_rows(
                lambda a, b: cpu.fill_gram(rows, panels, gram, a, b),
                len(rows) // cpu.BLOCK,
                threads,
            )
            is_filled[:] = True
        return True


def select_latents(
    x: Any,
    dictionary: Dictionary,
    k: int,
    beam: int = 1,
    counts: Sequence[int] | None = None,
    threads: int | None = None,
) -> Any:
    """Choose the latents (n, k) of each row, in the order of their choice.

    Rows of at least 16 dimensions for each latent look at all latents in the first 3/8 of the steps
    only; later steps look at those that were the most useful then: 512, or 8 k if that is more.
    With a beam each of the later steps keeps the best ``beam`` supports instead of one (beam
    search, as in additive quantisers: Babenko and Lempitsky 2014). O(d·h + k²·h) a row, or
    O(d·h + k²·512·beam) and a seventh of k²·h. Calls of few rows write to the dictionary: one at a
    time.

    Args:
        x: (n, d) float32 rows of any length: an array, or a tensor on a GPU.
        dictionary: the latents, where x is.
        k: latents of a row.
        beam: supports kept; 1 is greedy, as a GPU is.
        counts: latents of each stage, k in all, by their |W r| at its beginning: stagewise
            orthogonal matching pursuit (Donoho, Tsaig, Drori and Starck 2012), which serves the
            learning of a dictionary better. Without a beam, on a CPU. None chooses one at a time by
            error reduction.
        threads: number of threads; every processor the process may use when None.

    Returns:
        (n, k) int32, distinct within a row: an array, or a tensor where x is.

    Raises:
        ValueError: k or ``beam`` is out of range, ``counts`` are not k in all or come with a
            beam, a beam or ``counts`` are asked of a GPU, or the rows have another width or lie
            elsewhere.

    >>> latents = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0]], np.float32)
    >>> select_latents(np.array([[3, 4, 0.1]], np.float32), Dictionary(latents), k=1)
    array([[2]], dtype=int32)
    """
    n, d = x.shape
    if d != dictionary.dim:
        raise ValueError(f"rows of {d} columns: expected {dictionary.dim}")
    if not 1 <= k <= dictionary.latents:
        raise ValueError(f"k = {k}: expected 1 to {dictionary.latents}, the latents")
    if beam < 1:
        raise ValueError(f"beam = {beam}: expected 1 or more")
    if counts is not None and (sum(counts) != k or min(counts) < 1 or beam > 1):
        raise ValueError(f"counts = {list(counts)}: expected {k} in all, 1 or more each, no beam")
    if uses_triton(x) != dictionary.is_on_gpu:
        raise ValueError("rows and dictionary: expected both as arrays, or both on a GPU")
    if dictionary.is_on_gpu:
        if beam > 1 or counts is not None:
            raise ValueError("a beam or counts on a GPU: expected neither; give arrays on the CPU")
        from compressae.kernels.support import gpu

        steps, width = cpu.steps_and_width(d, dictionary.latents, k, beam)
        projection, gram = dictionary.arrays
        return gpu.select_latents(x, dictionary.latents, projection, gram, k, steps, width)
    if not dictionary.prepare(n * k, threads):
        threads = 1  # Rows of the Gram matrix are filled in by one thread.
    x = np.require(x, np.float32, ["C", "W"])  # Of one type, so that one function is compiled.
    supports = np.empty((n, k), np.int32)
    latents = dictionary.arrays
    steps, width = cpu.steps_and_width(d, len(latents[0]), k, beam)
    begins, least = np.ones(k, np.int64), cpu.LEAST
    if counts is not None:  # begins[s] is the size of the stage that begins at step s.
        steps, least = k, np.float32(1)
        begins[np.cumsum(counts) - counts] = counts

    def choose(start: int, stop: int) -> None:
        work = cpu.workspace(latents, k, beam, steps, width)
        h = dictionary.latents
        cpu.select(x, latents, h, beam, begins, least, steps, width, work, supports, start, stop)

    over_rows(choose, n, threads)
    return supports

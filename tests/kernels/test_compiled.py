"""Kernels that were just compiled and those from numba's cache give the same bits."""

import os
import subprocess
import sys

#: Rows and latents of few numbers, many of which are as good as others but for a last bit.
_PROGRAM = """
import hashlib
import numpy as np
from compressae.kernels.support import Dictionary, cpu, select_latents

rng = np.random.default_rng(0)
x, weights = (rng.integers(-1, 2, (n, 128)).astype(np.float32) for n in (12000, 2048))
supports = select_latents(x, Dictionary(weights), 32)
print(sum(cpu.select.stats.cache_hits.values()), hashlib.sha256(supports.tobytes()).hexdigest())
"""


def test_a_process_that_compiles_chooses_as_later_ones_do(tmp_path):
    """In an empty cache the first process compiles functions one by one, and links what they call
    as it was compiled alone; the second loads each with what it calls. Sums of floats that a
    compiler may reorder differ between the two."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    printed = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [hits for hits, _ in printed] == [b"0", b"1"]
    assert printed[0][1] == printed[1][1]

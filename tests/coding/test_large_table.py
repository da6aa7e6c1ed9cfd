"""A table much larger than the memory allowed goes through `compressae encode`."""

import os
import subprocess
import sys

import numpy as np
import pytest

from compressae import CompresSAE
from compressae.retrieval.codes.packed import PackedCodes

PROGRAM = """
import sys
from compressae.cli import main
try:
    main()
finally:
    # Not getrusage's, which a process inherits from the one that started it.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(peak.split()[1], file=sys.stderr)
"""

#: Rows of a shard and their width: narrow rows take less time a byte.
SHARDS, ROWS, DIM = 10, 131_072, 256


@pytest.mark.slow
def test_a_table_of_1_25_gib_is_encoded_in_1_12_gib(tmp_path):
    """Shards are links to one file of 128 MiB, so that the disk need not hold them."""
    rows = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    folder = tmp_path / "shards"
    folder.mkdir()
    np.save(folder / "0.npy", rows)
    for number in range(1, SHARDS):
        os.link(folder / "0.npy", folder / f"{number}.npy")
    CompresSAE(DIM, 64, 3).save(tmp_path / "model")
    arguments = ["encode", folder, "-m", tmp_path / "model", "-o", tmp_path / "codes"]
    arguments += ["--nonzeros", 1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stderr.split()[-1]) * 1024
    assert peak < 9 << 27, f"{peak / 2**30:.2f} GiB resident"
    codes = PackedCodes.load(tmp_path / "codes")
    assert len(codes) == SHARDS * ROWS
    ids = codes.unpack().indices.reshape(SHARDS, -1)
    assert (ids[0] == ids[-1]).mean() > 0.999  # The same rows, in other batches.

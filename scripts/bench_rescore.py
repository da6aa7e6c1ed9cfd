#!/usr/bin/env python3
"""Rescoring packed rows where they lie, beside plain CSR codes: look-ups a second of one thread.

usage: bench_rescore.py [ROWS]     (1,000,000 when not given)

Random codes of h = 4096, k = 16, with and without 32 residual bytes; every row, and 3,000 random
rows as a second stage reads them. A look-up is a nonzero or a residual byte. Medians of 15 runs,
each of its own in a row.
"""

import sys
import time
from collections.abc import Callable

import numpy as np

from compressae.kernels.packed import SPARE, pack
from compressae.kernels.rescore import rescore
from compressae.retrieval.codes import SparseCodes
from compressae.retrieval.packed import PackedCodes
from compressae.retrieval.quantizer import RowQuantizer

H, D, K, ROUNDS = 4096, 384, 16, 15


def packed_codes(n: int, m: int, rng: np.random.Generator) -> PackedCodes:
    """n random rows with m residual bytes."""
    part = D // m if m else 0
    quantizer = RowQuantizer(
        latents=H,
        metric=np.eye(D, dtype=np.float32),
        levels=rng.standard_normal((K, 4)).astype(np.float32),
        value_bits=np.full(K, 2),
        gains=np.linspace(0.9, 1.1, 256, dtype=np.float32),
        project=np.zeros((D, m * part), np.float32),
        restore=np.zeros((D, m * part), np.float32),
        codebooks=rng.standard_normal((m, 256, part)).astype(np.float32),
    )
    head = rng.integers(0, 256, (n, m + 1), dtype=np.uint8)
    # Distinct within a row: one of H / K latents in each of K parts.
    ids = rng.integers(0, H // K, (n, K), dtype=np.int32) + np.arange(K, dtype=np.int32) * (H // K)
    rows = pack(head, ids, rng.integers(0, 4, (n, K), dtype=np.uint8), quantizer.layout)
    data = np.concatenate([rows.ravel(), np.zeros(SPARE, np.uint8)])
    return PackedCodes(data, None, quantizer)


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rng = np.random.default_rng(0)
    query = rng.standard_normal(H).astype(np.float32)
    some = np.sort(rng.choice(n, 3000, replace=False))
    jobs: dict[str, tuple[Callable[[], object], int, float]] = {}
    plain: SparseCodes | None = None
    for m in (0, 32):
        codes = packed_codes(n, m, rng)
        tables = rng.standard_normal((m, 256)).astype(np.float32)
        for rows, name in ((None, "all"), (some, "3,000")):
            jobs[f"packed, {m} residual bytes, {name} rows"] = (
                lambda c=codes, t=tables, r=rows: c.rescore(query, t, r),
                (n if rows is None else len(rows)) * (K + m),
                codes.nbytes / n,
            )
        plain = plain or codes.unpack("int8")
    assert plain is not None
    for kind, codes in (("int8", plain), ("float32", SparseCodes.from_scipy(plain.to_scipy()))):
        for rows, name in ((None, "all"), (some, "3,000")):
            jobs[f"CSR {kind}, {name} rows"] = (
                lambda c=codes, r=rows: rescore(c.indptr, c.indices, c.values, c.scales, query, r),
                (n if rows is None else len(rows)) * K,
                codes.nbytes / n,
            )
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for name, (job, _, _) in jobs.items():
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - started)
    print(f"{n:,} rows, h = {H}, k = {K}, one thread\n")
    print("| what | bytes a row | ms | million look-ups/s | GB/s of codes |\n|---|---|---|---|---|")
    for name, (_, lookups, row) in jobs.items():
        median = float(np.median(seconds[name][1:]))  # The first compiles.
        rows_read = n if "all" in name else 3000
        print(
            f"| {name} | {row:.1f} | {1e3 * median:.2f} | {lookups / median / 1e6:,.0f} | "
            f"{rows_read * row / median / 1e9:.2f} |"
        )


if __name__ == "__main__":
    main()

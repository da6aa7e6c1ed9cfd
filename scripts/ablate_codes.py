#!/usr/bin/env python3
"""What each part of packed codes brings: the default, and the default with one part changed.

usage: ablate_codes.py EMBEDDINGS.npy OUTPUT_FOLDER

1,000 held-out queries against all other rows, every code scored; h = 4096, k = 16, int2 values.
Models are kept in OUTPUT_FOLDER; the table is printed and written to OUTPUT_FOLDER/table.md.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from scipy import sparse

import compressae.coding as coding
from compressae import CompresSAE, TrainConfig, open_embeddings
from compressae.cli.train import run
from compressae.coding import Coder, encode_rows, fit_quantizer, pursuit_counts
from compressae.kernels.decode import decode
from compressae.kernels.pursuit import pursue
from compressae.kernels.quantize import quantize_on_support
from compressae.retrieval.embeddings import unit_rows
from compressae.retrieval.exact import exact_search, largest_dots
from compressae.retrieval.metrics import recall_per_query
from compressae.retrieval.quantizer import RowQuantizer, metric_of
from compressae.training import held_out_rows

QUERIES, TOP, H, K = 1000, 100, 4096, 16


class Bench:
    """Queries, corpus and models of one table."""

    def __init__(self, path: str, folder: Path) -> None:
        items = open_embeddings(path)
        held, kept = held_out_rows(len(items), QUERIES)
        self.folder, self.corpus = folder, items.subset(np.sort(kept))
        self.queries = unit_rows(items.take(held))
        self.x = unit_rows(self.corpus.to_array())
        self.truth = exact_search(self.corpus, self.queries, TOP).ids
        self.metric = metric_of(self.x)
        self.lines: list[str] = []

    def model(self, **settings: Any) -> CompresSAE:
        config = TrainConfig(**{"latents": H, "nonzeros": K, **settings})
        place = self.folder / f"{config.recipe}-h{config.latents}-{config.steps}"
        if not place.exists():
            started = time.perf_counter()
            model = run(self.corpus, config, "cpu")
            model.settings["seconds"] = time.perf_counter() - started
            model.save_pretrained(place)
        return CompresSAE.from_pretrained(place)

    def say(self, part: str, code_bytes: float, remembered: np.ndarray) -> None:
        """Measure one variant by the rows that it remembers."""
        ids = largest_dots(self.queries, remembered, TOP)
        recall = recall_per_query(ids, self.truth, TOP)
        error = recall.std() / np.sqrt(QUERIES)
        self.lines.append(f"| {part} | {code_bytes:.0f} | {recall.mean():.4f} ± {error:.4f} |")
        print(self.lines[-1], flush=True)


def remember(
    coder: Coder, x: np.ndarray, bits: float, residual_bytes: int = 0, joint_rounds: int = 0
) -> tuple[int, np.ndarray]:
    """(bytes of a row, the rows (n, d) that packed codes remember)."""
    sample = x[np.unique(np.linspace(0, len(x) - 1, 1 << 16).astype(int))]
    quantizer = fit_quantizer(coder, sample, K, bits, residual_bytes)
    out = np.empty_like(x)
    for start in range(0, len(x), 8192):
        rows = x[start : start + 8192]
        out[start : start + 8192] = _rows(coder, quantizer, rows, joint_rounds)
    return int(quantizer.layout.lengths[-1]), out


def _rows(coder: Coder, quantizer: RowQuantizer, x: np.ndarray, joint_rounds: int) -> np.ndarray:
    weighted, decoder = x @ coder.metric, coder.weighted_decoder
    back = np.linalg.inv(coder.metric.astype(np.float64)).astype(np.float32)
    ids, values = coder.code(x, quantizer.nonzeros)
    sizes = 1 << quantizer.value_bits
    codes = coding.quantize_on_support(weighted, ids, values, decoder, quantizer.levels, sizes)
    near = decode(ids, quantizer.values_of(codes), decoder)
    if quantizer.residual_bytes:
        left = quantizer.decode_residual(quantizer.encode_residual(weighted - near)) @ coder.metric
        for _ in range(joint_rounds):  # Values anew for what the residual code leaves, and back.
            values = quantizer.values_of(codes)
            codes = coding.quantize_on_support(
                weighted - left, ids, values, decoder, quantizer.levels, sizes
            )
            near = decode(ids, quantizer.values_of(codes), decoder)
            parts = quantizer.encode_residual(weighted - near)
            left = quantizer.decode_residual(parts) @ coder.metric
        near = near + left
    gains = quantizer.gains[quantizer.encode_gain(coder.gains(weighted, near))]
    return gains[:, None] * (near @ back)


class _Steps(Coder):
    """Pursuit in another number of steps; 0 for the encoder's one."""

    steps = 0

    def support(self, x: np.ndarray, k: int) -> np.ndarray:
        if not self.steps:
            return encode_rows(self.model, x, k)[0]
        return pursue(x, self.decoder, pursuit_counts(k, self.steps))[0]


class _UnitLength(Coder):
    """Rows scaled to unit length."""

    def gains(self, x: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
        back = np.linalg.inv(self.metric.astype(np.float64)).astype(np.float32)
        return 1 / np.linalg.norm(reconstruction @ back, axis=1)


class _Unscaled(Coder):
    """Rows as they are reconstructed."""

    def gains(self, x: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
        return np.ones(len(x), np.float32)


@contextmanager
def replaced(name: str, by: Callable[..., Any]) -> Iterator[None]:
    before = getattr(coding, name)
    setattr(coding, name, by)
    try:
        yield
    finally:
        setattr(coding, name, before)


def rounded(x, ids, values, decoder, levels, sizes, sweeps=1):  # type: ignore[no-untyped-def]
    """Each value's nearest level, alone."""
    codes = np.empty(ids.shape, np.uint8)
    for rank, size in enumerate(sizes):
        steps = np.abs(values[:, rank, None] - levels[rank, :size])
        codes[:, rank] = steps.argmin(1)
    return codes


def plain_residual(weighted: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    return _residual(weighted, m, np.eye(weighted.shape[1], dtype=np.float32))


def optimized_residual(weighted: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    d = weighted.shape[1]
    turn = faiss.OPQMatrix(d, m)
    turn.train(weighted)
    return _residual(weighted, m, faiss.vector_to_array(turn.A).reshape(d, d).T)


def _residual(weighted: np.ndarray, m: int, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A product quantiser after a given rotation; d is a multiple of m."""
    d = weighted.shape[1]
    quantizer = faiss.ProductQuantizer(d, m, 8)
    quantizer.train(np.ascontiguousarray(weighted @ turn))
    centroids = faiss.vector_to_array(quantizer.centroids).reshape(m, 256, d // m)
    return np.ascontiguousarray(turn), np.ascontiguousarray(centroids)


def through_quantisation(bench: Bench, model: CompresSAE, rounds: int = 2) -> CompresSAE:
    """The dictionary refitted to the quantised values that it is served with."""
    x, weights = bench.x, model.decoder.detach().numpy().copy()
    sample = x[np.unique(np.linspace(0, len(x) - 1, 1 << 16).astype(int))]
    for _ in range(rounds):
        coder = Coder(model, np.eye(x.shape[1], dtype=np.float32), True)
        quantizer = fit_quantizer(coder, sample, K, 2, 0)
        ids, values = coder.code(x, K)
        codes = quantize_on_support(
            x, ids, values, weights, quantizer.levels, 1 << quantizer.value_bits
        )
        v = quantizer.values_of(codes)
        s = sparse.csr_array((v.ravel(), ids.ravel(), np.arange(len(x) + 1) * K), (len(x), H))
        gram = (s.T @ s).toarray() + 0.05 * np.eye(H)
        weights = np.linalg.solve(gram, s.T @ x + 0.05 * weights).astype(np.float32)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        model = CompresSAE(x.shape[1], H, K)
        for matrix in (model.encoder, model.decoder):
            matrix.data.copy_(torch.from_numpy(weights))
    return model


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(sys.argv[1], folder)
    x, metric, plain = bench.x, bench.metric, np.eye(bench.x.shape[1], dtype=np.float32)
    model = bench.model()
    base = Coder(model, metric, True)
    bench.say("the default: k = 16, int2", *remember(base, x, 2))
    for bits in (1, 3, 4, 8):
        bench.say(f"{bits}-bit values", *remember(base, x, bits))
    with replaced("quantize_on_support", rounded):
        bench.say("values rounded one by one, 2 bits", *remember(base, x, 2))
        bench.say("values rounded one by one, 4 bits", *remember(base, x, 4))
    bench.say("errors not weighed (A = 1)", *remember(Coder(model, plain, True), x, 2))
    bench.say("rows of unit length", *remember(_UnitLength(model, metric, True), x, 2))
    bench.say("rows not scaled", *remember(_Unscaled(model, metric, True), x, 2))
    for steps, name in ((0, "chosen at once by W·x"), (2, "pursuit in 2 steps"), (4, "in 4 steps")):
        coder = _Steps(model, metric, True)
        _Steps.steps = steps
        bench.say(f"latents {name}", *remember(coder, x, 2))
    for steps in (10, 20, 80):
        longer = Coder(bench.model(steps=steps), metric, True)
        bench.say(f"{steps} training steps, not 40", *remember(longer, x, 2))
    other = Coder(bench.model(recipe="autoencoder"), metric, True)
    bench.say("recipe autoencoder, pursuit all the same", *remember(other, x, 2))
    twice = through_quantisation(bench, model)
    bench.say(
        "dictionary refitted to quantised values", *remember(Coder(twice, metric, True), x, 2)
    )
    bench.say("the default with 32 residual bytes", *remember(base, x, 2, 32))
    bench.say("… errors not weighed (A = 1)", *remember(Coder(model, plain, True), x, 2, 32))
    bench.say("… not scaled", *remember(_Unscaled(model, metric, True), x, 2, 32))
    with replaced("fit_residual", plain_residual):
        bench.say("… PQ without rotation", *remember(base, x, 2, 32))
    with replaced("fit_residual", optimized_residual):
        bench.say("… OPQ", *remember(base, x, 2, 32))
    bench.say("… values and residual fitted in turn, 2 rounds", *remember(base, x, 2, 32, 2))
    ids = base.support(x, K)
    uses = np.bincount(ids.ravel(), minlength=H) / ids.size
    entropy = -float(np.sum(uses[uses > 0] * np.log2(uses[uses > 0])))
    skew = H * float(np.sum(uses**2))
    order = float(np.sum(np.log2(np.arange(1, K + 1)))) / K
    notes = (
        f"Ids: {entropy:.2f} bits of entropy of {np.log2(H):.0f}; their order within "
        f"a row takes log2({K}!)/{K} = {order:.2f} of them; posting skew {skew:.2f}."
    )
    head = "| what | code B | recall@100 (± standard error) |\n|---|---|---|\n"
    (folder / "table.md").write_text(head + "\n".join(bench.lines) + f"\n\n{notes}\n")
    print(notes)


if __name__ == "__main__":
    main()

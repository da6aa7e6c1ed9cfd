"""Rows of the report: the kernels of training and coding, one by one."""

from collections.abc import Iterator

import numpy as np
import torch
from benchmarks.gpu.lab import Lab, Row, Task, timed
from benchmarks.gpu.planted import planted

from compressae.kernels.chain.gpu import encode_chain
from compressae.kernels.cosine import code_gradients
from compressae.kernels.decode import decode, sampled_matmul, sparse_t_matmul
from compressae.kernels.encode import encode
from compressae.kernels.pursuit import pursue
from compressae.kernels.quantize import quantize_on_support
from compressae.kernels.refit import refit
from compressae.kernels.support import Dictionary, select_latents
from compressae.kernels.topk import abs_topk


def torch_top(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Equal to ``abs_topk`` but for the order of ties."""
    places = x.abs().topk(k).indices
    return places, x.gather(1, places)


def top_rows(lab: Lab) -> Iterator[Task]:
    for n, h, k in lab.pick(
        [(65_536, 4096, 32), (65_536, 4096, 128), (65_536, 4096, 8), (4096, 65_536, 256)],
        [(2, 300, 5)],
    ):
        x = torch.randn(n, h, device=lab.device)
        yield Task(
            f"top-{k}",
            f"{n} × {h}",
            lambda x=x, n=n, h=h, k=k: Row(  # type: ignore[misc]
                timed(lab, lambda: abs_topk(x, k)),
                moved=4 * n * h + 8 * n * k,
                peer="torch.topk of x.abs(), gather",
                peer_time=timed(lab, lambda: torch_top(x, k)),
            ),
        )


def codes(lab: Lab, n: int, k: int, h: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (n, k), distinct in a row, and values (n, k)."""
    part = h // k
    ids = torch.randint(part, (n, k), device=lab.device) + part * torch.arange(k, device=lab.device)
    return ids.int(), torch.randn(n, k, device=lab.device)


def sparse_rows(lab: Lab) -> Iterator[Task]:
    n, d, h, k = lab.pick((100_000, 768, 4096, 32), (2, 40, 64, 4))
    wide = 4 * k
    x = torch.nn.functional.normalize(torch.randn(n, d, device=lab.device))
    weights = torch.nn.functional.normalize(torch.randn(h, d, device=lab.device))
    bias = torch.zeros(h, device=lab.device)
    ids, values = codes(lab, n, k, h)
    many, many_values = codes(lab, n, wide, h)
    size, fixed = f"{n} × {d}, h {h}", 4 * h * d
    low = weights.bfloat16()

    def dense_encode() -> None:
        tile = max(1, (1 << 25) // (2 * h))
        for part in x.split(tile):
            torch_top(part.bfloat16() @ low.T, k)

    def torch_decode() -> None:
        torch.nn.functional.embedding_bag(
            ids.long(), weights, per_sample_weights=values, mode="sum"
        )

    yield Task(
        "encode",
        f"{size}, k {k}",
        lambda: Row(
            timed(lab, lambda: encode(x, weights, bias, k)),
            4 * n * d + fixed + 8 * n * k,
            2 * n * d * h,
            "bfloat16",
            "bfloat16 product and torch.topk, in tiles",
            timed(lab, dense_encode),
            "the peer's values are bfloat16 products, ours are recomputed in float32",
        ),
    )
    yield Task(
        "decode",
        f"{size}, k {k}",
        lambda: Row(
            timed(lab, lambda: decode(ids, values, weights)),
            8 * n * k + 4 * n * d + fixed,
            2 * n * k * d,
            peer="torch embedding_bag",
            peer_time=timed(lab, torch_decode),
        ),
    )
    yield Task(
        "sampled_matmul",
        f"{size}, k {k}",
        lambda: Row(
            timed(lab, lambda: sampled_matmul(ids, x, weights)),
            8 * n * k + 4 * n * d + fixed,
            2 * n * k * d,
        ),
    )
    for w in (k, wide):
        yield Task(
            "gradients of a batch",
            f"{size}, k {k}" + (f" and {w}" if w > k else ""),
            lambda w=w: Row(  # type: ignore[misc]
                timed(lab, lambda: code_gradients(x, weights, bias, weights, k, w, 0.125)),
                12 * n * k + 4 * n * d + 4 * fixed,
                (10 if w == k else 16) * n * d * h,
                "bfloat16",
            ),
        )

    def dense_t_matmul(i: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(h, d, device=lab.device)
        for part in (slice(at, at + (1 << 14)) for at in range(0, n, 1 << 14)):
            s = torch.zeros(len(x[part]), h, dtype=torch.bfloat16, device=lab.device)
            s.scatter_(1, i[part].long(), v[part].bfloat16())
            out += s.T @ x[part].bfloat16()
        return out

    for these, numbers, count in ((ids, values, k), (many, many_values, wide)):
        yield Task(
            "sparse_t_matmul",
            f"{size}, k {count}",
            lambda i=these, v=numbers, count=count: Row(  # type: ignore[misc]
                timed(lab, lambda: sparse_t_matmul(i, v, x, h)),
                8 * n * count + 4 * n * d + fixed,
                2 * n * count * d,
                peer="bfloat16 product with S dense, in tiles",
                peer_time=timed(lab, lambda: dense_t_matmul(i, v)),
            ),
        )


def what_supports_leave(lab: Lab) -> str:
    """Of trained latents and some rows of the made-up table: by the GPU, by the CPU, by pursuit."""
    made = planted(lab)
    rows = torch.nn.functional.normalize(made.rows[: lab.pick(2048, 40)].float())
    weights, k = made.model.decoder.detach().to(lab.device), made.model.nonzeros
    of_cpu = select_latents(rows.cpu().numpy(), Dictionary(weights.cpu().numpy()), k)
    supports = {
        "the GPU's supports": select_latents(rows, Dictionary(weights), k),
        "the CPU's": torch.from_numpy(of_cpu).to(lab.device),
        "pursuit's": pursue(rows, weights, [1] * k)[0],
    }
    errors = []
    for name, ids in supports.items():
        left = rows - decode(ids, refit(rows, ids, weights, 1e-4), weights)
        errors.append(f"{name} {left.square().sum(1).mean().item():.5f}")
    return ", ".join(errors)


def coding_rows(lab: Lab) -> Iterator[Task]:
    n, d, h, k = lab.pick((65_536, 768, 4096, 32), (2, 24, 64, 4))
    x = torch.nn.functional.normalize(torch.randn(n, d, device=lab.device))
    weights = torch.nn.functional.normalize(torch.randn(h, d, device=lab.device))
    ids, values = codes(lab, n, k, h)
    levels = np.tile(np.linspace(-1, 1, 4, dtype=np.float32), (k, 1))
    sizes = np.full(k, 4)
    size, fixed = f"{n} × {d}, h {h}, k {k}", 4 * h * d
    gram = n * k * k * d
    yield Task(
        "refit",
        size,
        lambda: Row(
            timed(lab, lambda: refit(x, ids, weights)),
            8 * n * k + 4 * n * d + fixed,
            gram,
        ),
    )
    yield Task(
        "quantise on the support",
        size,
        lambda: Row(
            timed(lab, lambda: quantize_on_support(x, ids, values, weights, levels, sizes)),
            5 * n * k + 4 * n * d + fixed,
            gram,
        ),
    )
    part = max(d // 16, 1)
    parts = torch.randn(n, 16 * part, device=lab.device)
    codebooks = torch.randn(16, 256, 2 * part, device=lab.device) / 2
    yield Task(
        "codes of a chain, 16 bytes",
        f"{n} × {16 * part}",
        lambda: Row(
            timed(lab, lambda: encode_chain(parts, codebooks)),
            16 * n * (4 * part + 1),
            15 * 2 * n * 256 * 256,
        ),
    )
    dictionary = Dictionary(weights)
    yield Task(
        "supports by orthogonal least squares",
        size,
        lambda: Row(
            timed(lab, lambda: select_latents(x, dictionary, k)),
            4 * n * (k + d) + 2 * (h * d + h * h),
            2 * n * d * h,
            "bfloat16",
            note=f"squared error left of {what_supports_leave(lab)}",
        ),
    )

    def coded() -> None:
        supports = select_latents(x, dictionary, k)
        quantize_on_support(x, supports, refit(x, supports, weights), weights, levels, sizes)

    yield Task(
        "coding: supports, values and levels",
        size,
        lambda: Row(timed(lab, coded), note="the rows are on the card"),
    )
    yield Task(
        "pursuit, one latent a step",
        size,
        lambda: Row(
            timed(lab, lambda: pursue(x, weights, [1] * k), 0.1),
            8 * n * k + 4 * n * d + fixed,
            2 * n * d * h * k,
            "bfloat16",
        ),
    )


kernel_parts = (top_rows, sparse_rows, coding_rows)

#!/usr/bin/env python3
"""Make the tables of docs/results/tables.md from what registry packages ship.

usage: python scripts/benchmarks/tables COMMAND … TABLE.npy

No vectors are kept in this repository: each command makes one table and writes a note beside it,
TABLE.json, with its shape, its spectrum and the SHA-256 of the rows.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.sparse import csr_array

#: Shortest text that is encoded, in characters.
LEAST_TEXT = 40
#: Share of the difference of two other rows that ``grow`` adds to a row.
SHARE = 0.35
#: Rows and pairs that the spectrum of a note is taken from.
SAMPLE = 20_000
_BATCH = 50_000

SOURCE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUTPUT = click.Path(dir_okay=False, path_type=Path)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("texts", type=SOURCE)
@click.argument("output", type=OUTPUT)
@click.option("--rows", default=60_000, show_default=True)
@click.option("--batch", default=128, show_default=True)
def encode(model: Path, texts: Path, output: Path, rows: int, batch: int) -> None:
    """Encode TEXTS, one a line, with a sentence-transformers MODEL folder.

    Lines of at least 40 characters, each once, in the order of seed 0; products in bfloat16.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    chosen = choose_texts(texts.read_text(encoding="utf-8").splitlines(), rows)
    encoder = SentenceTransformer(str(model), device="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        vectors = encoder.encode(
            chosen, batch_size=batch, convert_to_tensor=True, show_progress_bar=True
        )
    digest = hashlib.sha256("\n".join(chosen).encode()).hexdigest()
    write(output, unit(vectors.float().numpy()), texts=len(chosen), texts_sha256=digest)


def choose_texts(lines: list[str], rows: int) -> list[str]:
    """The first ``rows`` distinct lines of 40 characters on, in the order of seed 0."""
    lines = sorted({line.strip() for line in lines if len(line.strip()) >= LEAST_TEXT})
    order = np.random.default_rng(0).permutation(len(lines))
    return [lines[i] for i in order[:rows]]


@main.command()
@click.argument("weights", type=SOURCE)
@click.argument("output", type=OUTPUT)
@click.option(
    "--tensor", default="embeddings.word_embeddings.weight", show_default=True, help="Its name."
)
def tokens(weights: Path, output: Path, tensor: str) -> None:
    """Input embeddings of tokens, a tensor of a language model's WEIGHTS.safetensors."""
    from safetensors.numpy import load_file

    rows = load_file(weights)[tensor].astype(np.float32)
    write(output, distinct(rows), tensor=tensor)


@main.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("texts", type=SOURCE)
@click.argument("output", type=OUTPUT)
@click.option("--rows", default=120_000, show_default=True, help="At most.")
def means(model: Path, texts: Path, output: Path, rows: int) -> None:
    """Mean input embedding of the tokens of each of TEXTS, one a line, by a MODEL folder's tokens.

    An old baseline of sentence embeddings, which no encoder has turned from their common direction.
    Lines are chosen as ``encode`` does; unit rows, each once.
    """
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    for name in ("tokenizer.json", "model.safetensors"):
        if not (model / name).is_file():
            raise click.ClickException(f"{model}: no {name}; expected a folder of a model")
    chosen = choose_texts(texts.read_text(encoding="utf-8").splitlines(), rows)
    if not chosen:
        raise click.ClickException(f"{texts}: no line of {LEAST_TEXT} characters; expected texts")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = [one.ids for one in tokenizer.encode_batch(chosen, add_special_tokens=False)]
    embeddings = load_file(model / "model.safetensors")["embeddings.word_embeddings.weight"]
    vectors = mean_rows(embeddings.astype(np.float32), ids)
    digest = hashlib.sha256("\n".join(chosen).encode()).hexdigest()
    write(output, distinct(unit(vectors)), texts=len(chosen), texts_sha256=digest)


def mean_rows(table: np.ndarray, ids: list[list[int]]) -> np.ndarray:
    """Means (n, d) of rows of ``table`` (t, d): of those that each list of ``ids`` names."""
    counts = np.array([len(each) for each in ids])
    columns, ends = np.concatenate(ids), np.concatenate([[0], np.cumsum(counts)])
    shares = np.repeat(1 / counts, counts).astype(table.dtype)
    return csr_array((shares, columns, ends), (len(ids), len(table))) @ table


@main.command()
@click.argument("vectors", type=SOURCE)
@click.argument("output", type=OUTPUT)
def words(vectors: Path, output: Path) -> None:
    """Word vectors of a spaCy model, its file vocab/VECTORS."""
    with vectors.open("rb") as file:
        rows = np.load(file, allow_pickle=False)
    write(output, distinct(rows.astype(np.float32)))


def distinct(rows: np.ndarray) -> np.ndarray:
    """Rows that are not zero, each once, in their order, with their lengths."""
    rows = rows[np.linalg.norm(rows, axis=1) > 0]
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]


@main.command()
@click.argument("table", type=SOURCE)
@click.argument("output", type=OUTPUT)
@click.option("--rows", default=10_000, show_default=True)
def first(table: Path, output: Path, rows: int) -> None:
    """The first rows of TABLE."""
    write(output, np.load(table, mmap_mode="r")[:rows], of=table.name)


@main.command()
@click.argument("left", type=SOURCE)
@click.argument("right", type=SOURCE)
@click.argument("output", type=OUTPUT)
def join(left: Path, right: Path, output: Path) -> None:
    """Unit rows of two encoders side by side, as far as both have the same texts."""
    a, b = np.load(left, mmap_mode="r"), np.load(right, mmap_mode="r")
    n = min(len(a), len(b))
    rows = np.concatenate([unit(a[:n]), unit(b[:n])], axis=1)
    write(output, unit(rows), of=[left.name, right.name])


@main.command()
@click.argument("table", type=SOURCE)
@click.argument("output", type=OUTPUT)
@click.option("--rows", default=1_000_000, show_default=True)
def grow(table: Path, output: Path, rows: int) -> None:
    """Made-up rows about those of TABLE: a row plus 0.35 times the difference of two others.

    The noise has the table's own covariance, so that the spectrum stays what it is.
    """
    real = unit(np.load(table))
    rng = np.random.default_rng(0)
    file = np.lib.format.open_memmap(
        output, mode="w+", dtype=np.float32, shape=(rows, real.shape[1])
    )
    for start in range(0, rows, _BATCH):
        i, j, k = rng.integers(0, len(real), (3, min(_BATCH, rows - start)))
        file[start : start + len(i)] = unit(real[i] + SHARE * (real[j] - real[k]))
    file.flush()
    note(output, of=table.name, seed=0)


@main.command()
@click.argument("output", type=OUTPUT)
@click.option("--rows", default=31_000, show_default=True)
@click.option("--dim", default=1024, show_default=True)
def planted(output: Path, rows: int, dim: int) -> None:
    """Made-up unit rows: 1 cluster for each 20 rows, the variance of axis i as 1 / i.

    Half of the variance is that of the centres.
    """
    rng = np.random.default_rng(0)
    scale = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    centres = scale * rng.standard_normal((max(1, rows // 20), dim), dtype=np.float32)
    x = scale * rng.standard_normal((rows, dim), dtype=np.float32)
    x += centres[rng.integers(0, len(centres), rows)]
    write(output, unit(x), seed=0)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their lengths."""
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(output: Path, rows: np.ndarray, **facts: Any) -> None:
    """Write rows (n, d) and the note beside them."""
    np.save(output, np.ascontiguousarray(rows, np.float32))
    note(output, **facts)


def note(output: Path, **facts: Any) -> None:
    """Write the note of a table beside it, and print it."""
    rows = np.load(output, mmap_mode="r")
    record = {"table": output.name, "rows": len(rows), "dim": rows.shape[1]}
    record |= spectrum(rows) | facts
    digest = hashlib.sha256()
    for start in range(0, len(rows), _BATCH):
        digest.update(np.ascontiguousarray(rows[start : start + _BATCH]))
    record["rows_sha256"] = digest.hexdigest()
    output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    click.echo(json.dumps(record))


def spectrum(rows: np.ndarray) -> dict[str, float]:
    """What says how anisotropic rows (n, d) are, and how much their lengths differ.

    Mean cosine of two rows; variance in the first 64 directions and effective dimension,
    (Σλ)² / Σλ², of unit rows less their mean; deviation of lengths over their mean.
    """
    rng = np.random.default_rng(0)
    sample = np.asarray(rows[np.sort(rng.permutation(len(rows))[:SAMPLE])], np.float64)
    lengths = np.linalg.norm(sample, axis=1)
    x = sample / lengths[:, None]
    mean, n = x.mean(axis=0), len(x)
    variances = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    return {
        "mean_cosine": round(float((n * mean @ mean - 1) / (n - 1)), 4),
        "variance_in_64": round(float(variances[:64].sum() / variances.sum()), 4),
        "effective_dimension": round(float(variances.sum() ** 2 / (variances**2).sum()), 1),
        "length_deviation": round(float(lengths.std() / lengths.mean()), 4),
    }


if __name__ == "__main__":
    main()

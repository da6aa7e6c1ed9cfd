"""Figures of each record, computed from what it found."""

import math
from typing import Any

import numpy as np

from compressae.evaluation.methods import FAMILY, METHODS
from compressae.evaluation.protocol import Evaluation, Record
from compressae.retrieval.baselines import BASELINES
from compressae.retrieval.metrics import (
    mean_interval,
    ndcg_per_query,
    recall_per_query,
    reciprocal_rank,
    score_correlation,
)

#: How many results each recall looks at.
RECALLS = (1, 10, 100)
#: And the metrics of labels.
LABELLED = 10


def metrics(evaluation: Evaluation) -> list[str]:
    """Names of what is computed of each record."""
    labelled = [f"nDCG@{LABELLED}", f"MRR@{LABELLED}"] if evaluation.labels is not None else []
    return [*(f"recall@{K}" for K in RECALLS), *labelled, "score r"]


def per_query(evaluation: Evaluation, record: Record) -> dict[str, np.ndarray]:
    """Each metric of each query: (q,) float64."""
    found, truth = record.hits.ids, evaluation.truth.ids
    values = {f"recall@{K}": recall_per_query(found, truth, K) for K in RECALLS}
    if evaluation.labels is not None:
        values[f"nDCG@{LABELLED}"] = ndcg_per_query(found, evaluation.labels, LABELLED)
        values[f"MRR@{LABELLED}"] = reciprocal_rank(found, evaluation.labels, LABELLED)
    return {**values, "score r": score_correlation(record.hits.scores, record.exact)}


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """What a report shows, as JSON can say it: ``about``, the names of ``metrics``, and an entry of
    ``methods`` for each record; None where there is no figure."""
    return {
        "about": finite(evaluation.about),
        "metrics": metrics(evaluation),
        "methods": [_entry(evaluation, record) for record in evaluation.records],
    }


def _entry(evaluation: Evaluation, record: Record) -> dict[str, Any]:
    name, baseline = record.method, BASELINES.get(record.method)
    entry: dict[str, Any] = {
        "method": name,
        "label": label(record),
        "family": baseline.family if baseline else FAMILY if name in METHODS else "unknown",
        "what": METHODS.get(name, "unknown"),
        "settings": finite(record.settings),
        "error": record.error,
        "metrics": {},
    }
    if record.error is not None:
        return entry
    entry["metrics"] = {
        metric: dict(zip(("mean", "low", "high"), finite(mean_interval(values)), strict=True))
        for metric, values in per_query(evaluation, record).items()
    }
    return entry | {
        "code_bytes": record.code_bytes,
        "bytes_an_item": record.bytes_an_item,
        "constant_bytes": record.constant_bytes,
        "build_seconds": record.build_seconds,
        "p50_ms": float(np.percentile(record.times_ms, 50)),
        "p99_ms": float(np.percentile(record.times_ms, 99)),
        "queries_per_second": record.queries_per_second,
    }


def label(record: Record) -> str:
    """The method and what was set: "hnsw ef=100"."""
    usual = {"latents": record.settings.get("latents"), "values": "int2", "residual_bytes": 0}
    shown = {k: v for k, v in record.settings.items() if v is not None and usual.get(k) != v}
    if "nonzeros" in shown:  # They say what the bytes became.
        shown.pop("code_bytes", None)
    return " ".join([record.method, *(f"{_short(k)}={v}" for k, v in shown.items())])


def _short(name: str) -> str:
    return {
        "code_bytes": "B", "candidates": "C", "nonzeros": "k", "residual_bytes": "residual",
        "query_nonzeros": "kq",
    }.get(name, name)  # fmt: skip


def finite(value: Any) -> Any:
    """The same with None for NaN and infinity, and text for whatever else JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)

"""Figures of each record, computed from its results, and what they say in words."""

import math
from typing import Any

import numpy as np

from compressae.evaluation.interactions import POPULARITY
from compressae.evaluation.methods import FAMILY, METHODS, OURS
from compressae.evaluation.protocol import Evaluation, Record
from compressae.retrieval.baselines import BASELINES
from compressae.retrieval.metrics import mean_interval, metric_per_query, score_correlation

#: Metrics of every record, and of those with labels.
_METRICS, _OF_LABELS = ("recall@1", "recall@10", "recall@100"), ("nDCG@10", "MRR@10")
#: Metrics of a recommender's interactions; recall@K is against the exact dot product's results.
_OF_USERS = ("recall@10", "recall@20", "recall@100", "held-out recall@20", "nDCG@20", "hit@20")
#: Results of which coverage is the share of items that are in anyone's.
_COVERED = 20
#: The metric of the verdict.
_VERDICT = "recall@100"
#: Methods are compared with ours where they hold at most this many times its bytes.
_EQUAL_BYTES = 1.1
#: Constants are named in the verdict from this share of the codes on.
_CONSTANTS = 0.1


def metrics(evaluation: Evaluation) -> list[str]:
    """Names of the metrics of each record."""
    if evaluation.interactions is not None:
        groups = [f"{group} recall@20" for group in POPULARITY]
        return [*_OF_USERS, *groups, "coverage@20", "score r"]
    labelled = _OF_LABELS if evaluation.labels is not None else ()
    return [*_METRICS, *labelled, "score r"]


def per_query(evaluation: Evaluation, record: Record) -> dict[str, np.ndarray]:
    """Each metric of each query: (q,) float64."""
    ids, truth, labels = record.hits.ids, evaluation.truth.ids, evaluation.labels
    of_groups = {f"{group} recall@20": i for i, group in enumerate(POPULARITY)}
    values = {}
    for metric in metrics(evaluation):
        if metric in of_groups:
            of_group = evaluation.group_labels[of_groups[metric]]
            values[metric] = metric_per_query("held-out recall@20", ids, labels=of_group)
        elif "@" in metric and not metric.startswith("coverage"):
            values[metric] = metric_per_query(metric, ids, truth, labels)
    return {**values, "score r": score_correlation(record.hits.scores, record.exact)}


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """Summarise an evaluation as JSON: None where there is no figure.

    Returns:
        ``about``, the sentences of the ``verdict``, the names of ``metrics``, and an entry of
        ``methods`` for each record.
    """
    return {
        "about": finite(evaluation.about),
        "verdict": verdict(evaluation),
        "metrics": metrics(evaluation),
        "methods": [_entry(evaluation, record) for record in evaluation.records],
    }


def verdict(evaluation: Evaluation) -> list[str]:
    """Compare compressed search with the best other method at about the same bytes, in words.

    Of each size of codes, the scoring of largest recall@100 stands for compressed search. Others
    count where they hold at most a tenth more bytes an item. A difference is one where the 95 %
    interval of the mean difference over queries leaves out 0. Constants are named where they exceed
    a tenth of the codes.

    Returns:
        A sentence or two for each size of codes.
    """
    measured = [record for record in evaluation.records if record.error is None]
    recalls = {
        id(record): metric_per_query(_VERDICT, record.hits.ids, evaluation.truth.ids)
        for record in measured
    }
    sizes: dict[int, list[Record]] = {}
    for record in measured:
        if record.method in OURS:
            size = record.settings.get("code_bytes") or round(record.code_bytes)
            sizes.setdefault(size, []).append(record)
    if not sizes:
        failed = any(record.method in OURS for record in evaluation.records)
        return [f"compressae {'failed' if failed else 'was not measured'}."]

    def rank(record: Record) -> tuple[float, float]:
        return -round(float(recalls[id(record)].mean()), 4), record.bytes_an_item

    sentences = []
    for size, records in sorted(sizes.items()):
        ours = min(records, key=rank)
        most = _EQUAL_BYTES * ours.bytes_an_item
        others = [
            record
            for record in measured
            if record.method not in OURS and record.bytes_an_item <= most
        ]
        best = min(others, key=rank) if others else None
        sentences.append(_comparison(size, ours, best, recalls))
        if evaluation.interactions is not None:
            sentences.append(_held_out(ours, evaluation))
        constants = _constants(evaluation, [ours] if best is None else [ours, best])
        if constants:
            sentences.append(constants)
    return sentences


def _comparison(
    size: int, ours: Record, best: Record | None, recalls: dict[int, np.ndarray]
) -> str:
    held = ours.bytes_an_item
    place = f"At {size} B"
    if held > _EQUAL_BYTES * size:
        place += f" of codes ({held:,.0f} B with posting lists)"
    own = recalls[id(ours)]
    start = f"{place}, compressae keeps {100 * own.mean():.0f} % of the exact top 100"
    if best is None:
        return f"{start}; no other method was measured at about the same bytes."
    _, low, high = mean_interval(own - recalls[id(best)])
    other = f"({best.method}) keeps {_percent(recalls[id(best)], own)}"
    if low > 0:
        return f"{start}; the best other method at about the same bytes {other}."
    if high < 0:
        return f"{start}; another method at about the same bytes {other} and is ahead."
    return f"{start}; the best other method at about the same bytes {other}: no clear difference."


def _held_out(ours: Record, evaluation: Evaluation) -> str:
    """A sentence about held-out pairs: compressed search beside the exact results."""
    assert evaluation.labels is not None
    own, exact = (
        np.nanmean(metric_per_query("held-out recall@20", ids, labels=evaluation.labels))
        for ids in (ours.hits.ids, evaluation.truth.ids)
    )
    return f"Of users' held-out pairs it finds {own:.4f} in 20 results, exact search {exact:.4f}."


def _percent(recall: np.ndarray, other: np.ndarray) -> str:
    """Recall in per cent, with a decimal where whole numbers would be equal."""
    same = f"{100 * recall.mean():.0f}" == f"{100 * other.mean():.0f}"
    if not same or recall.mean() == other.mean():
        return f"{100 * recall.mean():.0f} %"
    return f"{100 * recall.mean():.1f} % (compressae {100 * other.mean():.1f} %)"


def _constants(evaluation: Evaluation, records: list[Record]) -> str:
    """A sentence about constants that exceed a tenth of the codes, or nothing."""
    parts = []
    for record in records:
        codes = record.code_bytes * evaluation.about["items"]
        if record.constant_bytes > _CONSTANTS * codes:
            name = FAMILY if record.method in OURS else record.method
            share = 100 * record.constant_bytes / codes
            parts.append(
                f"{record.constant_bytes / 1e6:.1f} MB for {name} ({share:,.0f} % of its codes)"
            )
    if not parts:
        return ""
    return f"Constants, whatever the number of items, add {' and '.join(parts)}."


def training(summary: dict[str, Any]) -> list[str]:
    """Lines that say how many rows each method was trained on."""
    methods: dict[int, list[str]] = {}
    for entry in summary["methods"]:
        if entry["error"] is None:
            names = methods.setdefault(entry["trained_rows"], [])
            if entry["method"] not in names:
                names.append(entry["method"])
    return [
        f"Trained on {rows:,} rows: {', '.join(names)}."
        if rows
        else f"Not trained: {', '.join(names)}."
        for rows, names in sorted(methods.items(), reverse=True)
    ]


def _entry(evaluation: Evaluation, record: Record) -> dict[str, Any]:
    name, baseline = record.method, BASELINES.get(record.method)
    entry: dict[str, Any] = {
        "method": name,
        "label": label(record),
        "name": full_name(record),
        "family": baseline.family if baseline else FAMILY if name in OURS else "unknown",
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
    if evaluation.interactions is not None:
        found = record.hits.ids[:, :_COVERED]
        share = len(np.unique(found[found >= 0])) / evaluation.about["items"]
        entry["metrics"]["coverage@20"] = {"mean": share, "low": None, "high": None}
    return entry | {
        "code_bytes": record.code_bytes,
        "bytes_an_item": record.bytes_an_item,
        "constant_bytes": record.constant_bytes,
        "all_bytes_an_item": record.bytes_an_item
        + record.constant_bytes / evaluation.about["items"],
        "trained_rows": record.trained_rows,
        "build_seconds": record.build_seconds,
        "p50_ms": float(np.percentile(record.times_ms, 50)),
        "p99_ms": float(np.percentile(record.times_ms, 99)),
        "queries_per_second": record.queries_per_second,
    }


def label(record: Record) -> str:
    """The method and its settings, in short.

    >>> label(Record("hnsw", {"ef": 100})), label(Record("pq", {"code_bytes": 32}))
    ('hnsw ef=100', 'pq B=32')
    """
    return " ".join(
        [record.method, *(f"{_SHORT.get(k, k)}={v}" for k, v in _chosen(record).items())]
    )


def full_name(record: Record) -> str:
    """The method and its settings, in words.

    >>> full_name(Record("asymmetric-all", {"nonzeros": 16, "residual_bytes": 31}))
    'compressae, scan, 16 nonzeros + 31 residual bytes'
    >>> full_name(Record("hnsw", {"links": 32, "ef": 100}))
    'hnsw, links 32, ef 100'
    """
    chosen = _chosen(record)
    parts = [record.method]
    if record.method in OURS:
        parts = [FAMILY, OURS[record.method].name]
        if "candidates" in chosen:
            parts.append(f"{_number(chosen.pop('candidates'))} candidates")
        if "nonzeros" in chosen:
            residual = chosen.pop("residual_bytes", 0)
            more = f" + {residual} residual bytes" if residual else ""
            parts.append(f"{chosen.pop('nonzeros')} nonzeros{more}")
    for name, value in chosen.items():
        words = _WORDS.get(name)
        parts.append(f"{_number(value)} {words}" if words else f"{name} {_number(value)}")
    return ", ".join(parts)


_SHORT = {
    "code_bytes": "B",
    "candidates": "C",
    "nonzeros": "k",
    "residual_bytes": "residual",
    "query_nonzeros": "kq",
}
_WORDS = {
    "code_bytes": "bytes",
    "residual_bytes": "residual bytes",
    "query_nonzeros": "query terms",
    "values": "values",
}


def _chosen(record: Record) -> dict[str, Any]:
    """Settings that differ from the usual ones."""
    usual = {"latents": record.settings.get("latents"), "values": "int2", "residual_bytes": 0}
    chosen = {k: v for k, v in record.settings.items() if v is not None and usual.get(k) != v}
    if "nonzeros" in chosen:  # They say what the bytes became.
        chosen.pop("code_bytes", None)
    return chosen


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def finite(value: Any) -> Any:
    """Replace NaN and infinity by None, and whatever else JSON does not know by text.

    >>> finite({"a": [1.5, float("nan")], "b": (2, None)})
    {'a': [1.5, None], 'b': [2, None]}
    """
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)

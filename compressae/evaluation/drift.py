"""Drift: whether a model still fits new embeddings, or should be trained again."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from compressae.coding.compress import check_width
from compressae.evaluation.quality import TOP, Quality, measure_quality
from compressae.model import CompresSAE
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.embeddings import Embeddings, as_embeddings
from compressae.training.config import held_out_rows

#: Most rows measured of a table; the noise of all figures is then far below their margins.
SAMPLE_ROWS = 2048
#: Smaller batches are not judged: their worst 5 % would be fewer than five rows.
LEAST_ROWS = 100
#: With fewer held-out rows than this, the reference is measured on training rows.
ENOUGH_HELD_OUT = 200

# Margins: how much worse than the reference a figure must be, beyond noise. WordNet figures are
# those of docs/results/drift.md.

#: Relative growth of 1 − cosine. Verbs, adjectives and adverbs, coded by a model of nouns, are 19
#: to 48 % worse.
COSINE_MARGIN = 0.15
#: Drop of recall@10; that of verbs drops by .05.
RECALL_MARGIN = 0.03
#: Factor of the list imbalance: the posting lists that a search reads grow as much.
IMBALANCE_MARGIN = 2.0
#: Share of the live latents that must have died.
LIVE_MARGIN = 0.25
#: Standard errors of the difference beyond the margin.
NOISE = 2.0
#: Training rows are coded better than unseen ones, whose 1 − cosine is up to 1 + ALLOWANCE·h / n
#: times as large after training on n rows; 3.2 in its place on 60,000 nouns, more on smaller
#: tables.
ALLOWANCE = 5.5
#: With fewer training rows a latent this no longer holds: training rows tell too little.
LEAST_ROWS_A_LATENT = 8

#: Not a seed of training's: rows that a dictionary starts from are coded better than the others.
_SEED = 0x6472696674

_CURE = (
    "give the table it was trained on, or rows that it is known to fit (--reference TABLE), or "
    "train again"
)

Source = Literal["held-out rows", "rows trained on", "rows of another table"]


@dataclass(frozen=True)
class Reference:
    """Quality that a batch is compared with.

    Attributes:
        source: which rows were measured.
        allowance: factor by which 1 − cosine of unseen rows may be larger; 1 where unseen rows were
            measured.
        quality: of at most ``SAMPLE_ROWS`` rows.
    """

    source: Source
    allowance: float
    quality: Quality

    def to_settings(self) -> dict[str, Any]:
        """Six digits of each figure, as JSON: ``model.settings["reference"]``."""
        settings: dict[str, Any] = _rounded(asdict(self))
        settings["figures"] = settings.pop("quality")  # Its name in saved models.
        return settings

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Reference":
        """Parse what ``to_settings`` gave.

        Raises:
            InputError: it is damaged.
        """
        try:
            figures = dict(settings["figures"])
            figures.setdefault("list_imbalance", figures.pop("skew", None))  # Its name in format 2.
            pairs = {name: tuple(figures[name]) for name in ("cosine", "low", "list_imbalance")}
            if figures.get("fvu") is not None:
                pairs["fvu"] = tuple(figures["fvu"])
            lists = {name: [tuple(part) for part in figures[name]] for name in ("uses", "recall")}
            quality = Quality(rows=int(figures["rows"]), **pairs, **lists)  # type: ignore[arg-type]
            return cls(settings["source"], float(settings["allowance"]), quality)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the model's reference figures are damaged ({error!r}); expected those that train "
                f"kept; {_CURE}"
            ) from error


@dataclass(frozen=True)
class Finding:
    """One figure, then and now.

    Attributes:
        name: name of the figure.
        reference, now: its values.
        limit: past which it is worse; noise and the loss of unseen rows are included.
        worse: whether it is past the limit.
    """

    name: str
    reference: float
    now: float
    limit: float
    worse: bool


@dataclass(frozen=True)
class Drift:
    """Comparison of a batch with the reference.

    Attributes:
        rows, measured: rows of the batch, and how many of them were measured.
        source, reference_rows: what the reference was measured on.
        findings: a figure each.
        fvu: fraction of variance unexplained (see ``Quality``): of the reference, None where it has
            none, and now. It says what the cosine says, and is not judged.
    """

    rows: int
    measured: int
    source: Source
    reference_rows: int
    findings: list[Finding]
    fvu: tuple[float | None, float] = (None, float("nan"))

    @property
    def retrain(self) -> bool:
        """Whether some figure is worse."""
        return any(finding.worse for finding in self.findings)

    @property
    def verdict(self) -> str:
        """ "fits", or "retrain: " and the reasons."""
        reasons = [
            f"{finding.name} {'fell' if finding.now < finding.reference else 'rose'} from "
            f"{finding.reference:.3f} to {finding.now:.3f}"
            for finding in self.findings
            if finding.worse
        ]
        return "retrain: " + ", ".join(reasons) if reasons else "fits"


def check(model: CompresSAE, items: Any, reference: Any = None) -> Drift:
    """Compare a batch of embeddings with what a model was trained on.

    A random sample of ``SAMPLE_ROWS`` rows is measured, always the same of the same batch; all rows
    are read, so that a bad one is named.

    Args:
        model: a trained model.
        items: (n, d) embeddings, n ≥ ``LEAST_ROWS``: an array, a path or ``Embeddings``.
        reference: a ``Reference``, or a table for ``measure_reference``; when None, the one in
            ``model.settings["reference"]``, which ``compressae train`` puts there.

    Raises:
        InputError: too few rows; another width; a row is NaN or infinite, or zero where the model
            was trained for cosine; no reference.

    >>> rng = np.random.default_rng(0)
    >>> model = CompresSAE(dim=16, latents=64, nonzeros=4)
    >>> usual = rng.standard_normal((900, 16)).astype(np.float32)
    >>> check(model, usual[:300], reference=usual[300:]).verdict
    'fits'
    """
    items = _read_for(model, items)
    check_width(model, items)
    if len(items) < LEAST_ROWS:
        raise InputError(
            f"{items.name}: {len(items)} rows; a batch is judged from {LEAST_ROWS} rows on; gather "
            "more"
        )
    if reference is None:
        settings = model.settings.get("reference")
        if settings is None:
            raise InputError(
                "the model keeps no figures of its training (it was saved by an earlier version, "
                f"or trained on fewer than {LEAST_ROWS} rows); {_CURE}"
            )
        reference = Reference.from_settings(settings)
    items.check()
    if not isinstance(reference, Reference):
        reference = measure_reference(model, reference)
    then: Quality = reference.quality
    trained = model.settings.get("rows", 0) - model.settings.get("hold_out", 0)
    if reference.source == "rows trained on" and trained < LEAST_ROWS_A_LATENT * model.latents:
        raise InputError(
            f"the model was trained on {trained} rows and none was held out; with {model.latents} "
            "latents those tell nothing about new rows; give rows that it is known to fit "
            f"(--reference TABLE), or train with --hold-out {ENOUGH_HELD_OUT} or more"
        )
    x = _sample(items)
    now = measure_quality(model, x, [c for c, *_ in then.recall if c <= len(x)][-1:])
    assert now.fvu is not None
    fvu = None if then.fvu is None else then.fvu[0], now.fvu[0]
    findings = _compare(model, reference, now)
    return Drift(len(items), now.rows, reference.source, then.rows, findings, fvu)


def measure_reference(model: CompresSAE, items: Any) -> Reference:
    """Measure what ``check`` compares with: quality on a model's training table, or another one.

    Of the training table, known by its number of rows, the held-out rows are measured if they are
    at least ``ENOUGH_HELD_OUT``: a dictionary suits training rows better than new ones. Otherwise
    training rows are measured, and ``allowance`` makes up for it. Rows of a table of another
    length, or of a model that keeps no number of rows, count as unseen.

    Args:
        model: with the ``settings`` that ``train`` gave it.
        items: (n, d) embeddings, n ≥ ``LEAST_ROWS``.

    Raises:
        InputError: too few rows; another width; a bad row among those measured; trained on so few
            rows that they tell nothing about unseen ones.

    >>> items = np.random.default_rng(0).standard_normal((900, 16)).astype(np.float32)
    >>> model = CompresSAE(dim=16, latents=64, nonzeros=4)
    >>> reference = measure_reference(model, items)
    >>> reference.source, reference.quality.rows
    ('rows of another table', 900)
    >>> model.settings["reference"] = reference.to_settings()
    >>> check(model, items).retrain
    False
    """
    items = _read_for(model, items)
    check_width(model, items)
    n, held = len(items), model.settings.get("hold_out", 0)
    if n < LEAST_ROWS:
        raise InputError(f"{items.name}: {n} rows; a reference takes at least {LEAST_ROWS}")
    if model.settings.get("rows") != n:
        return Reference("rows of another table", 1.0, measure_quality(model, _sample(items)))
    if held >= ENOUGH_HELD_OUT:
        x = _not_zero(items, held_out_rows(n, held)[0][:SAMPLE_ROWS])
        return Reference("held-out rows", 1.0, measure_quality(model, x))
    if held:
        items = items.subset(held_out_rows(n, held)[1])
    if len(items) < LEAST_ROWS:
        raise InputError(
            f"{items.name}: {n} rows with {held} held out; a reference takes {LEAST_ROWS} rows "
            f"trained on or {ENOUGH_HELD_OUT} held out"
        )
    allowance = 1 + ALLOWANCE * model.latents / len(items)
    return Reference("rows trained on", allowance, measure_quality(model, _sample(items)))


def _compare(model: CompresSAE, reference: Reference, now: Quality) -> list[Finding]:
    then, allowance = reference.quality, reference.allowance
    rows = min(then.rows, now.rows)
    findings = []
    pairs = (("mean cosine", then.cosine, now.cosine), ("low cosine", then.low, now.low))
    for name, (old, old_noise), (new, new_noise) in pairs:
        factor = allowance * (1 + COSINE_MARGIN)
        limit = 1 - factor * (1 - old) - NOISE * np.hypot(factor * old_noise, new_noise)
        findings.append(_finding(name, old, new, limit))
    (corpus, new, new_noise) = now.recall[-1]
    old, old_noise = next(measured[1:] for measured in then.recall if measured[0] == corpus)
    # A row's error has a length of nearly √(2 (1 − cosine)), and moves scores by that much.
    limit = 1 - np.sqrt(allowance) * (1 - old) - RECALL_MARGIN
    limit -= NOISE * np.hypot(np.sqrt(allowance) * old_noise, new_noise)
    findings.append(_finding(f"recall@{TOP} of {corpus} rows", old, new, limit))
    old, old_noise = then.live(rows, model.latents)
    new, new_noise = now.live(rows, model.latents)
    limit = old * (1 - LIVE_MARGIN)
    limit -= NOISE * np.hypot((1 - LIVE_MARGIN) * old_noise, new_noise)
    findings.append(_finding(f"live latents of {rows} rows", old, new, limit))
    (old, old_noise), (new, new_noise) = then.list_imbalance, now.list_imbalance
    limit = IMBALANCE_MARGIN * old + NOISE * np.hypot(IMBALANCE_MARGIN * old_noise, new_noise)
    findings.append(_finding("list imbalance", old, new, limit, rising=True))
    return findings


def _finding(name: str, old: float, new: float, limit: float, rising: bool = False) -> Finding:
    limit = float(limit) if rising else max(0.0, float(limit))
    return Finding(name, float(old), float(new), limit, new > limit if rising else new < limit)


def _sample(items: Embeddings) -> np.ndarray:
    """At most ``SAMPLE_ROWS`` rows in random order, the same ones each time."""
    n = len(items)
    rng = np.random.default_rng(_SEED)
    return _not_zero(items, rng.choice(n, min(n, SAMPLE_ROWS), replace=False))


def _not_zero(items: Embeddings, rows: np.ndarray) -> np.ndarray:
    """Those of rows (m,) that are not zero.

    Raises:
        InputError: too few.
    """
    x = items.take(rows)
    x = x[x.any(axis=1)]
    if len(x) < LEAST_ROWS:
        raise InputError(
            f"{items.name}: {len(x)} of {len(rows)} rows are not zero; a batch is judged from "
            f"{LEAST_ROWS} on; gather more"
        )
    return x


def _read_for(model: CompresSAE, items: Any) -> Embeddings:
    """The table, where rows of zeros are allowed if the model was trained for dot products."""
    table = as_embeddings(items)
    return table.compared_by("dot") if model.similarity == "dot" else table


def _rounded(value: Any) -> Any:
    """Round floats to six digits, and turn tuples into lists."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value

"""Whether a model still fits the embeddings that come in, or should be trained again."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from compressae.compress import check_width
from compressae.config import held_out_rows
from compressae.figures import TOP, Figures, measure
from compressae.model import CompresSAE
from compressae.retrieval.embeddings import Embeddings, as_embeddings
from compressae.retrieval.errors import InputError

#: Most rows measured of a table; the noise of all figures is far below their margins then.
SAMPLE_ROWS = 2048
#: Fewer rows are not judged: their worst 5 % would be fewer than five.
LEAST_ROWS = 100
#: With fewer held-out rows than this, rows that were trained on make the reference.
ENOUGH_HELD_OUT = 200

# Margins: how much worse than the reference a figure has to be, beyond noise. WordNet figures are
# those of docs/results/drift.md.

#: By which 1 − cosine has to grow. Verbs, adjectives and adverbs, coded by a model of nouns, are 19
#: to 48 % worse.
COSINE_MARGIN = 0.15
#: By which recall@10 has to fall; that of verbs falls by .05.
RECALL_MARGIN = 0.03
#: Factor by which the skew has to grow: as much longer are the posting lists that a search reads.
SKEW_MARGIN = 2.0
#: Share of the live latents that has to fall idle.
LIVE_MARGIN = 0.25
#: Standard errors of the difference by which a margin has to be passed.
NOISE = 2.0
#: Rows that were trained on are coded better than unseen ones: of these 1 − cosine is up to
#: 1 + ALLOWANCE·h / n times as large after training on n rows; 3.2 in its place on 60,000 nouns,
#: more on smaller tables.
ALLOWANCE = 5.5
#: With fewer rows a latent that is no longer so: rows that were trained on tell too little.
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
    """What a batch is compared with.

    Attributes:
        source: which rows were measured.
        allowance: factor by which 1 − cosine of unseen rows may be larger; 1 where ``figures`` are
            of unseen rows.
        figures: of at most ``SAMPLE_ROWS`` rows.
    """

    source: Source
    allowance: float
    figures: Figures

    def to_settings(self) -> dict[str, Any]:
        """For JSON, as ``train`` keeps it in ``model.settings["reference"]``: six digits each."""
        kept: dict[str, Any] = _rounded(asdict(self))
        return kept

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Reference":
        """The inverse.

        Raises:
            InputError: it is damaged.
        """
        try:
            figures = settings["figures"]
            pairs = {name: tuple(figures[name]) for name in ("cosine", "low", "skew")}
            lists = {name: [tuple(one) for one in figures[name]] for name in ("uses", "recall")}
            read = Figures(rows=int(figures["rows"]), **pairs, **lists)  # type: ignore[arg-type]
            return cls(settings["source"], float(settings["allowance"]), read)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the model's reference figures are damaged ({error!r}); expected those that train "
                f"kept; {_CURE}"
            ) from error


@dataclass(frozen=True)
class Finding:
    """One figure, then and now.

    Attributes:
        name: of the figure.
        reference, now: its values.
        limit: past which it is worse, noise and what unseen rows lose included.
        worse: it is past the limit.
    """

    name: str
    reference: float
    now: float
    limit: float
    worse: bool


@dataclass(frozen=True)
class Drift:
    """How a batch compares with the reference.

    Attributes:
        rows, measured: of the batch, and how many of them were measured.
        source, reference_rows: what the reference was measured on.
        findings: a figure each.
    """

    rows: int
    measured: int
    source: Source
    reference_rows: int
    findings: list[Finding]

    @property
    def retrain(self) -> bool:
        """Some figure is worse."""
        return any(one.worse for one in self.findings)

    @property
    def verdict(self) -> str:
        """ "fits", or "retrain: " and the reasons."""
        reasons = [
            f"{one.name} {'fell' if one.now < one.reference else 'rose'} from "
            f"{one.reference:.3f} to {one.now:.3f}"
            for one in self.findings
            if one.worse
        ]
        return "retrain: " + ", ".join(reasons) if reasons else "fits"


def check(model: CompresSAE, items: Any, reference: Any = None) -> Drift:
    """Compare a batch of embeddings with what a model was trained on.

    A random sample of ``SAMPLE_ROWS`` rows is measured, always the same of the same batch; all rows
    are read, so that a bad one is named.

    Args:
        model: as trained.
        items: (n, d) embeddings, n ≥ ``LEAST_ROWS``: an array, a path or ``Embeddings``.
        reference: a ``Reference``, or a table for ``measure_reference``; what training kept in the
            model when None.

    Raises:
        InputError: too few rows; another width; a row is NaN, infinite or zero; no reference.
    """
    items = as_embeddings(items)
    check_width(model, items)
    if len(items) < LEAST_ROWS:
        raise InputError(
            f"{items.name}: {len(items)} rows; a batch is judged from {LEAST_ROWS} rows on; gather "
            "more"
        )
    if reference is None:
        kept = model.settings.get("reference")
        if kept is None:
            raise InputError(
                "the model keeps no figures of its training (it was saved by an earlier version, "
                f"or trained on fewer than {LEAST_ROWS} rows); {_CURE}"
            )
        reference = Reference.from_settings(kept)
    items.check()
    if not isinstance(reference, Reference):
        reference = measure_reference(model, reference)
    then: Figures = reference.figures
    trained = model.settings.get("rows", 0) - model.settings.get("hold_out", 0)
    if reference.source == "rows trained on" and trained < LEAST_ROWS_A_LATENT * model.latents:
        raise InputError(
            f"the model was trained on {trained} rows and none was held out; with {model.latents} "
            "latents those tell nothing of new rows; give rows that it is known to fit "
            f"(--reference TABLE), or train with --hold-out {ENOUGH_HELD_OUT} or more"
        )
    corpora = [c for c, *_ in then.recall if c <= min(len(items), SAMPLE_ROWS)]
    now = measure(model, _sample(items), corpora[-1:])
    return Drift(len(items), now.rows, reference.source, then.rows, _compare(model, reference, now))


def measure_reference(model: CompresSAE, items: Any) -> Reference:
    """Figures of the table that a model was trained on, or of another one that it fits.

    Of the table it was trained on, known by its number of rows, the held-out rows are measured if
    they are at least ``ENOUGH_HELD_OUT``: a dictionary suits rows it was trained on better than new
    ones. Otherwise rows that were trained on are, and ``allowance`` makes up for it. Rows of a
    table of another length, or of a model that keeps no number of rows, count as unseen.

    Args:
        model: with the ``settings`` that ``train`` gave it.
        items: (n, d) embeddings, n ≥ ``LEAST_ROWS``.

    Raises:
        InputError: too few rows; another width; a bad row among those measured; trained on so few
            rows that they tell nothing of unseen ones.
    """
    items = as_embeddings(items)
    check_width(model, items)
    n, held = len(items), model.settings.get("hold_out", 0)
    if n < LEAST_ROWS:
        raise InputError(f"{items.name}: {n} rows; a reference takes at least {LEAST_ROWS}")
    if model.settings.get("rows") != n:
        return Reference("rows of another table", 1.0, measure(model, _sample(items)))
    if held >= ENOUGH_HELD_OUT:
        x = items.take(held_out_rows(n, held)[0][:SAMPLE_ROWS])
        return Reference("held-out rows", 1.0, measure(model, x))
    if held:
        items = items.subset(held_out_rows(n, held)[1])
    if len(items) < LEAST_ROWS:
        raise InputError(
            f"{items.name}: {n} rows with {held} held out; a reference takes {LEAST_ROWS} rows "
            f"trained on or {ENOUGH_HELD_OUT} held out"
        )
    allowance = 1 + ALLOWANCE * model.latents / len(items)
    return Reference("rows trained on", allowance, measure(model, _sample(items)))


def _compare(model: CompresSAE, reference: Reference, now: Figures) -> list[Finding]:
    then, allowance = reference.figures, reference.allowance
    rows = min(then.rows, now.rows)
    findings = []
    pairs = (("mean cosine", then.cosine, now.cosine), ("low cosine", then.low, now.low))
    for name, (old, old_noise), (new, new_noise) in pairs:
        factor = allowance * (1 + COSINE_MARGIN)
        limit = 1 - factor * (1 - old) - NOISE * np.hypot(factor * old_noise, new_noise)
        findings.append(_finding(name, old, new, limit))
    (corpus, new, new_noise) = now.recall[-1]
    old, old_noise = next(one[1:] for one in then.recall if one[0] == corpus)
    # What a row lacks has length √(2 (1 − cosine)) nearly, and moves scores by that much.
    limit = 1 - np.sqrt(allowance) * (1 - old) - RECALL_MARGIN
    limit -= NOISE * np.hypot(np.sqrt(allowance) * old_noise, new_noise)
    findings.append(_finding(f"recall@{TOP} of {corpus} rows", old, new, limit))
    (old, old_noise), (new, new_noise) = (one.live(rows, model.latents) for one in (then, now))
    limit = old * (1 - LIVE_MARGIN)
    limit -= NOISE * np.hypot((1 - LIVE_MARGIN) * old_noise, new_noise)
    findings.append(_finding(f"live latents of {rows} rows", old, new, limit))
    (old, old_noise), (new, new_noise) = then.skew, now.skew
    limit = SKEW_MARGIN * old + NOISE * np.hypot(SKEW_MARGIN * old_noise, new_noise)
    findings.append(_finding("list skew", old, new, limit, rising=True))
    return findings


def _finding(name: str, old: float, new: float, limit: float, rising: bool = False) -> Finding:
    limit = float(limit) if rising else max(0.0, float(limit))
    return Finding(name, float(old), float(new), limit, new > limit if rising else new < limit)


def _sample(items: Embeddings) -> np.ndarray:
    """At most ``SAMPLE_ROWS`` rows in random order, the same ones each time."""
    n = len(items)
    rng = np.random.default_rng(_SEED)
    return items.take(rng.choice(n, min(n, SAMPLE_ROWS), replace=False))


def _rounded(value: Any) -> Any:
    """The same with floats at six digits and tuples as lists."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value

"""Made-up clicks in Criteo's shape, whose true probabilities are known.

Nothing here is data of a company: ids, counts and labels are drawn at random.
"""

import numpy as np

from clicks.examples import Examples, random_parts
from clicks.vocabulary import Vocabulary

#: Numbers of values of the 26 features of Criteo's Kaggle data, as its users report them.
CRITEO_ROWS = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
DENSE = 13
#: Variance of the true logit: of single values, of pairs of values, of dense features.
VARIANCES = (1.5, 1.0, 0.5)
#: Pairs of features that interact, and the rank of each interaction.
PAIRS, RANK = 20, 4
#: Mean of the true logit: about a quarter of the labels are 1.
BIAS = -1.5
#: Exponent of the ids' Zipf law.
EXPONENT = 1.05


def planted_rows(most: int) -> tuple[int, ...]:
    """Numbers of values of the features: Criteo's to a power, so that the largest is ``most``."""
    power = np.log(most) / np.log(max(CRITEO_ROWS))
    return tuple(max(3, round(n**power)) for n in CRITEO_ROWS)


def planted(examples: int, most: int, min_count: int = 2, seed: int = 0) -> Examples:
    """Draw examples of a known logistic model.

    The logit is BIAS + Σ_f a_f[i_f] + Σ_(f, g) u_f[i_f] · v_g[i_g] + x · β with normal a, u,
    v and β of the variances above; i_f is Zipf, x = log(1 + count) of 13 geometric counts. ``rows``
    counts the values that are in training ``min_count`` times or more, numbered in order of first
    appearance as in a file that is read; the effects of rarer ones cannot be learned, so no model
    reaches the true log loss.

    Args:
        examples: N.
        most: values of the largest feature.
        min_count: fewer uses of a value in training make it rare.
        seed: of all draws and the split.
    """
    rng = np.random.default_rng(seed)
    features = tuple(f"C{i}" for i in range(1, len(CRITEO_ROWS) + 1))
    sizes = planted_rows(most)
    values = np.stack([_zipf(rng, n, examples) for n in sizes], 1)
    logit = np.full(examples, BIAS)
    for column, n in enumerate(sizes):
        effects = rng.normal(0, (VARIANCES[0] / len(sizes)) ** 0.5, n)
        logit += effects[values[:, column]]
    for _ in range(PAIRS):
        first, second = rng.choice(len(sizes), 2, replace=False)
        scale = (VARIANCES[1] / PAIRS / RANK) ** 0.25
        left = rng.normal(0, scale, (sizes[first], RANK)).astype(np.float32)
        right = rng.normal(0, scale, (sizes[second], RANK)).astype(np.float32)
        logit += (left[values[:, first]] * right[values[:, second]]).sum(1)
    counts = rng.geometric(rng.uniform(0.02, 0.5, DENSE), (examples, DENSE)) - 1
    dense = np.log1p(counts).astype(np.float32)
    weights = rng.normal(0, (VARIANCES[2] / DENSE) ** 0.5, DENSE)
    logit += (dense - dense.mean(0)) / dense.std(0).clip(min=1e-6) @ weights
    probabilities = 1 / (1 + np.exp(-logit))
    labels = (rng.random(examples) < probabilities).astype(np.float32)
    parts = random_parts(examples, seed)
    ids, rows = np.zeros(values.shape, np.int32), {}
    for column, name in enumerate(features):
        vocabulary = Vocabulary()
        vocabulary.count(values[parts["train"], column])
        vocabulary.close(min_count)
        ids[:, column], rows[name] = vocabulary.encode(values[:, column]), len(vocabulary)
    facts = {
        "made_up": True,
        "examples": examples,
        "values_of_the_largest_feature": most,
        "min_count": min_count,
        "seed": seed,
    }
    return Examples(
        "planted",
        labels,
        dense,
        ids,
        features,
        rows,
        parts,
        probabilities=probabilities.astype(np.float32),
        facts=facts,
    )


def _zipf(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """Draw values 0 to n − 1 in proportion to (value + 1)^−EXPONENT, (count,) int32."""
    cumulative = np.cumsum(np.arange(1, n + 1, dtype=np.float64) ** -EXPONENT)
    drawn = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    return drawn.clip(max=n - 1).astype(np.int32)

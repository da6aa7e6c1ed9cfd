"""Seeded signed top-k codes with the statistics of trained ones, for the sparse search benchmark.

Rows have unit length, |value| descending, distinct ids. Latent popularity is Zipf-like (the most
frequent about 17 times the median). Each row draws from the 48 favourite latents of ``mixing`` of
5,000 centroids, plus a background.
"""

import numpy as np

LATENTS = 4096
CENTROIDS = 5000
QUERIES = 1000
#: The two sets of the benchmark: one centroid a row, and three under a strong background.
SETS = {"clustered": {}, "mixed": {"mixing": 3, "background": 40, "level": 0.35}}


def make_codes(
    n: int,
    q: int,
    mixing: int = 1,
    background: int = 24,
    level: float = 0.22,
    h: int = LATENTS,
    k: int = 32,
    centroids: int = CENTROIDS,
    favourites: int = 48,
    seed: int = 7,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Make ids (n, k) uint16 and values (n, k) float32 of n documents, and of q similar queries."""
    rng = np.random.default_rng(seed)
    popularity = (np.arange(1, h + 1) + 4.13) ** -0.5
    popularity = popularity[rng.permutation(h)]
    popularity /= popularity.sum()
    gumbel = np.log(popularity)[None, :] + rng.gumbel(size=(centroids, h))
    favourite = np.argpartition(-gumbel, favourites, axis=1)[:, :favourites].astype(np.int32)
    favourite = rng.permuted(favourite, axis=1)
    sign = rng.choice([-1.0, 1.0], size=(centroids, favourites)).astype(np.float32)
    part = favourites // mixing
    prominence = np.tile(((np.arange(part) + 1.0) ** -0.4).astype(np.float32), mixing)
    share = rng.lognormal(0, 0.7, centroids)
    share /= share.sum()
    cdf = np.cumsum(popularity)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        label = rng.choice(centroids, size=(count, mixing), p=share).astype(np.int32)
        ids, values = np.empty((count, k), np.uint16), np.empty((count, k), np.float32)
        for start in range(0, count, 50_000):
            rows = label[start : start + 50_000]
            m = len(rows)
            # Favourites of the row's centroids, most of them with the centroid's sign.
            own = np.concatenate([favourite[rows[:, c], :part] for c in range(mixing)], 1)
            own_sign = np.concatenate([sign[rows[:, c], :part] for c in range(mixing)], 1)
            own_sign = own_sign * np.where(rng.random(own.shape, dtype=np.float32) < 0.95, 1, -1)
            spread = np.exp(0.5 * rng.standard_normal(own.shape, dtype=np.float32))
            own_size = prominence[None] * spread
            # The background, by popularity.
            other = np.searchsorted(cdf, rng.random((m, background)))
            other = np.minimum(other, h - 1).astype(np.int32)
            spread = np.exp(0.5 * rng.standard_normal((m, background), dtype=np.float32))
            other_size = level * spread
            other_sign = rng.choice(np.array([-1, 1], np.float32), size=(m, background))
            # The k largest of both, each latent once, at unit length.
            latents = np.concatenate([own, other], 1)
            size = np.concatenate([own_size, other_size], 1)
            signs = np.concatenate([own_sign, other_sign], 1)
            order = np.argsort(latents, axis=1, kind="stable")
            latents = np.take_along_axis(latents, order, 1)
            repeated = np.zeros_like(latents, bool)
            repeated[:, 1:] = latents[:, 1:] == latents[:, :-1]
            size = np.where(repeated, -1, np.take_along_axis(size, order, 1))
            signs = np.take_along_axis(signs, order, 1)
            top = np.argsort(-size, axis=1)[:, :k]
            v = np.take_along_axis(size, top, 1)
            v /= np.sqrt((v * v).sum(1, keepdims=True))
            ids[start : start + 50_000] = np.take_along_axis(latents, top, 1)
            values[start : start + 50_000] = v * np.take_along_axis(signs, top, 1)
        return ids, values

    return draw(n), draw(q)

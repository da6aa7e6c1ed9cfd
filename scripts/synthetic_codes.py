"""Seeded signed top-k codes with the statistics of trained ones, for the sparse search benchmark.

Rows are unit length, |value| descending, ids distinct. Latent popularity is Zipf-like (the most
frequent about 17 times the median). Each row draws on ``mixing`` of 5,000 centroids' 48 favourite
latents plus a background.
"""

import numpy as np

#: The two sets of the benchmark: one centroid a row, and three under a strong background.
SETS = {"clustered": {}, "mixed": {"mixing": 3, "background": 40, "level": 0.35}}


def make_codes(
    n: int,
    nq: int,
    mixing: int = 1,
    background: int = 24,
    level: float = 0.22,
    h: int = 4096,
    k: int = 32,
    centroids: int = 5000,
    favourites: int = 48,
    seed: int = 7,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Ids (·, k) uint16 and values (·, k) float32 of n documents, and of nq queries like them."""
    rng = np.random.default_rng(seed)
    popularity = (np.arange(1, h + 1) + 4.13) ** -0.5
    popularity = popularity[rng.permutation(h)]
    popularity /= popularity.sum()
    gumbel = np.log(popularity)[None, :] + rng.gumbel(size=(centroids, h))
    fav = np.argpartition(-gumbel, favourites, axis=1)[:, :favourites].astype(np.int32)
    fav = rng.permuted(fav, axis=1)
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
            near = np.concatenate([fav[rows[:, c], :part] for c in range(mixing)], 1)
            near_sign = np.concatenate([sign[rows[:, c], :part] for c in range(mixing)], 1)
            near_sign = near_sign * np.where(rng.random(near.shape, dtype=np.float32) < 0.95, 1, -1)
            spread = np.exp(0.5 * rng.standard_normal(near.shape, dtype=np.float32))
            near_size = prominence[None] * spread
            far = np.searchsorted(cdf, rng.random((m, background)))
            far = np.minimum(far, h - 1).astype(np.int32)
            spread = np.exp(0.5 * rng.standard_normal((m, background), dtype=np.float32))
            far_size = level * spread
            far_sign = rng.choice(np.array([-1, 1], np.float32), size=(m, background))
            all_ids = np.concatenate([near, far], 1)
            size = np.concatenate([near_size, far_size], 1)
            signs = np.concatenate([near_sign, far_sign], 1)
            order = np.argsort(all_ids, axis=1, kind="stable")
            all_ids = np.take_along_axis(all_ids, order, 1)
            repeated = np.zeros_like(all_ids, bool)
            repeated[:, 1:] = all_ids[:, 1:] == all_ids[:, :-1]
            size = np.where(repeated, -1, np.take_along_axis(size, order, 1))
            signs = np.take_along_axis(signs, order, 1)
            top = np.argsort(-size, axis=1)[:, :k]
            v = np.take_along_axis(size, top, 1)
            v /= np.sqrt((v * v).sum(1, keepdims=True))
            ids[start : start + 50_000] = np.take_along_axis(all_ids, top, 1)
            values[start : start + 50_000] = v * np.take_along_axis(signs, top, 1)
        return ids, values

    return draw(n), draw(nq)

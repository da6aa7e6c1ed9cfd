"""Factors of a small recommender: items of very different lengths, and users apart from them."""

import numpy as np

N, D, USERS = 900, 16, 60


def factors(n=N, users=USERS, seed=0):
    """Items (n, d) around centres, lengths log-normal, rows 0 and n − 1 zeros; users (q, d)."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((30, D)) * np.linspace(2, 0.3, D)
    items = centres[rng.integers(0, 30, n)] + 0.4 * rng.standard_normal((n, D))
    items *= rng.lognormal(0, 0.8, (n, 1)) / np.linalg.norm(items, axis=1, keepdims=True)
    items[[0, -1]] = 0
    asked = centres[rng.integers(0, 30, users)] + rng.standard_normal((users, D))
    return items.astype(np.float32), (asked * rng.uniform(0.5, 3, (users, 1))).astype(np.float32)


def seen_by(users=USERS, n=N, each=20, seed=1):
    """What each user has seen: (users, n) CSR of ones."""
    import scipy.sparse

    rng = np.random.default_rng(seed)
    columns = np.concatenate([rng.choice(n, each, replace=False) for _ in range(users)])
    rows = np.repeat(np.arange(users), each)
    ones = np.ones(len(rows), np.float32)
    return scipy.sparse.csr_array((ones, (rows, columns)), shape=(users, n))


def left_out_by_hand(scores, seen, K):
    """Ids (q, K) of the largest scores (q, n) of pairs that are not seen; ties by smaller id."""
    scores = np.where(seen.toarray() > 0, -np.inf, scores)
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]

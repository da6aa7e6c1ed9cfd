"""Small interactions for the tests of recommenders, and where those are."""

import sys
from pathlib import Path

import numpy as np

SCRIPTS = Path(__file__).parents[1] / "scripts"
if str(SCRIPTS) not in sys.path:
    sys.path.insert(0, str(SCRIPTS))


def blocks(users=120, items=80, groups=4, each=8, noise=2, seed=0):
    """Arrays of a file of pairs: users like items of their own group, and some of any.

    Two items of each group are in far more pairs, so that there is a popularity to beat.
    """
    rng = np.random.default_rng(seed)
    train, test = [], []
    for user in range(users):
        own = np.arange(user % groups, items, groups)
        weights = np.where(np.arange(len(own)) < 2, 4.0, 1.0)
        liked = rng.choice(own, each + 3, replace=False, p=weights / weights.sum())
        odd = rng.choice(np.setdiff1d(np.arange(items), own), noise, replace=False)
        train += [(user, item) for item in [*liked[:each], *odd]]
        test += [(user, item) for item in liked[each:]]
    (train_user, train_item), (test_user, test_item) = np.array(train).T, np.array(test).T
    return {
        "n_users": np.int64(users),
        "n_items": np.int64(items),
        "train_user": train_user.astype(np.int32),
        "train_item": train_item.astype(np.int32),
        "test_user": test_user.astype(np.int32),
        "test_item": test_item.astype(np.int32),
    }


def write(path, arrays):
    """The same as a file."""
    np.savez(path, **arrays)
    return path

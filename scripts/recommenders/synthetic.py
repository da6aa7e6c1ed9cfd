"""Synthetic interactions, small enough for a run of seconds."""

import numpy as np


def blocks(
    users: int = 120,
    items: int = 80,
    groups: int = 4,
    each: int = 8,
    noise: int = 2,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Make the arrays of a file of pairs: users like items of their own group, and some others.

    Two items of each group are in far more pairs, so that popularity is a baseline.

    Args:
        groups: user u and item i are of groups u and i modulo this.
        each: training pairs of a user in its own group; three more are its test pairs.
        noise: training pairs of a user outside its group.
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
    return _arrays(users, items, train, test)


def shuffled(arrays: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """The same pairs with users and items renumbered at random."""
    rng = np.random.default_rng(seed)
    names = {side: rng.permutation(int(arrays[f"n_{side}s"])) for side in ("user", "item")}
    return {
        name: array if name.startswith("n_") else names[name[-4:]][array].astype(np.int32)
        for name, array in arrays.items()
    }


def preferences(
    users: int = 6000,
    items: int = 4000,
    each: int = 30,
    topics: int = 24,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Make the arrays of a file of pairs: users with tastes, items of topics and of popularity.

    A user draws items without replacement with probability in proportion to
    popularity · exp(taste · topic); popularity is log-normal, as in a shop or of places. A fifth of
    the pairs of each user are its test pairs.

    Args:
        each: mean number of pairs of a user; they differ by a factor of about three.
        topics: dimensions of tastes and topics.
    """
    rng = np.random.default_rng(seed)
    tastes = rng.standard_normal((users, topics)) * np.linspace(2, 0.5, topics)
    of_items = rng.standard_normal((items, topics)) / np.sqrt(topics)
    popularity = 1.2 * rng.standard_normal(items)
    counts = np.clip(rng.lognormal(np.log(each), 0.4, users), 5, items // 4).astype(int)
    train, test = [], []
    for user, count in enumerate(counts):
        score = 2 * tastes[user] @ of_items.T + popularity
        drawn = np.argpartition(-(score + rng.gumbel(size=items)), count)[:count]
        drawn = rng.permutation(drawn)
        cut = -(-4 * count // 5)
        train += [(user, item) for item in drawn[:cut]]
        test += [(user, item) for item in drawn[cut:]]
    return _arrays(users, items, train, test)


def _arrays(
    users: int, items: int, train: list[tuple[int, int]], test: list[tuple[int, int]]
) -> dict[str, np.ndarray]:
    """The arrays of a file of pairs."""
    (train_user, train_item), (test_user, test_item) = np.array(train).T, np.array(test).T
    return {
        "n_users": np.array(users),
        "n_items": np.array(items),
        "train_user": train_user.astype(np.int32),
        "train_item": train_item.astype(np.int32),
        "test_user": test_user.astype(np.int32),
        "test_item": test_item.astype(np.int32),
    }

"""Losses of a training step."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recommenders.models import MF


def bpr(
    model: MF, users: np.ndarray, positives: np.ndarray, negatives: np.ndarray, l2: float = 0.0
) -> Tensor:
    """Mean of −ln σ(score(u, i) − score(u, j)) + l2·(|x_u|² + |x_i|² + |x_j|²) over triples (m,).

    BPR (arXiv 1205.2618) with the L2 of LightGCN (arXiv 2002.02126) as BET's public code scales it:
    x are rows of the table, before propagation.
    """
    rows = model.lookup()
    of_users = rows(torch.from_numpy(users))
    liked, other = (rows(torch.from_numpy(x + model.n_users)) for x in (positives, negatives))
    loss = F.softplus(model.pairs(of_users, other) - model.pairs(of_users, liked)).mean()
    if l2:
        ids = np.concatenate([users, positives + model.n_users, negatives + model.n_users])
        loss = loss + l2 / len(users) * model.table(torch.from_numpy(ids)).square().sum()
    return loss


def sampled_softmax(
    model: MF,
    users: np.ndarray,
    rows: np.ndarray,
    positives: np.ndarray,
    candidates: np.ndarray,
    temperature: float,
    user_power: float,
) -> Tensor:
    """Cross-entropy of each positive against all items, estimated from shared candidates.

    −s⁺ + ln(e^s⁺ + (n_items / c)·Σ_j e^s_j), with s = score / temperature and j over the c
    candidates: the sampled softmax loss (arXiv 2201.02327) of uniform proposals, with one set of
    negatives for the whole batch. The mean over pairs weighs a user of p pairs p^−user_power: 0
    weighs pairs equally, 1 users.

    Args:
        users: (b,) int64.
        rows: (m,) position of each pair's user in ``users``.
        positives: (m,) items of the pairs.
        candidates: (c,) distinct items.
    """
    lookup, user_of_pair = model.lookup(), torch.from_numpy(rows)
    of_users = lookup(torch.from_numpy(users))
    of_items = lookup(torch.from_numpy(positives + model.n_users))
    others = lookup(torch.from_numpy(candidates + model.n_users))
    liked = model.pairs(of_users[user_of_pair], of_items) / temperature
    total = torch.logsumexp(model.block(of_users, others) / temperature, 1)
    total = total + float(np.log(model.n_items / len(candidates)))
    counts = np.bincount(rows, minlength=len(users))[rows]
    weights = torch.from_numpy(counts.astype(np.float32) ** -user_power)
    return ((torch.logaddexp(total[user_of_pair], liked) - liked) * weights).sum() / weights.sum()

"""Log loss and AUC of predicted probabilities."""

import numpy as np
from scipy.stats import rankdata

#: Probabilities are clipped to this and its complement, so that a loss is finite.
_LEAST = 1e-7


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross-entropy, in nats, of labels (m,) of 0 and 1.

    >>> round(log_loss(np.array([0.5, 0.25]), np.array([1, 0])), 4)
    0.4904
    """
    p = np.asarray(probabilities, np.float64).clip(_LEAST, 1 - _LEAST)
    return float(-np.where(np.asarray(labels) > 0, np.log(p), np.log1p(-p)).mean())


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Probability that a positive example scores above a negative one, ties counting half.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    0.875
    """
    positive = np.asarray(labels) > 0
    wins = rankdata(scores)[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(wins / (positive.sum() * (~positive).sum()))

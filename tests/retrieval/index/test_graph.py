"""Which searches of a GPU are captured as graphs, and which graphs go."""

import numpy as np
import pytest
import torch

from compressae.retrieval.index import graph


class _Recorded:
    """A search as it would be replayed: it runs the search itself."""

    made = 0

    def __init__(self, search, queries, setup):
        self.search, self.size = search, len(queries)
        _Recorded.made += 1

    def __call__(self, x):
        assert len(x) <= self.size
        ids, scores = self.search(torch.from_numpy(x))
        return ids.numpy(), scores.numpy()


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setattr(graph, "Replayed", _Recorded)
    monkeypatch.setattr(graph.CaptureSetup, "on", lambda device: None)
    _Recorded.made = 0
    return graph.Graphs(torch.device("cpu"), most=2)


def found(graphs, key, count=3):
    x = np.ones((count, 2), np.float32)
    return graphs.find(key, x, 4, lambda x: (x[:, 0] * 10, x.sum(1)))


def test_the_second_search_of_a_size_is_captured(graphs):
    assert found(graphs, "a") is None and len(graphs) == 0
    for count in (3, 4, 1):
        ids, scores = found(graphs, "a", count)
        assert ids.tolist() == [10] * count and scores.tolist() == [2] * count
    assert _Recorded.made == len(graphs) == 1


def test_the_least_recently_used_graph_goes(graphs):
    for key in "aabb":
        found(graphs, key)
    found(graphs, "a")
    for key in "cc":
        found(graphs, key)
    assert len(graphs) == 2 and _Recorded.made == 3
    found(graphs, "a")  # Still there; b is captured anew.
    assert _Recorded.made == 3
    assert found(graphs, "b") is not None and _Recorded.made == 4


def test_what_came_once_is_forgotten_in_time(graphs, monkeypatch):
    monkeypatch.setattr(graph, "_REMEMBERED", 2)
    for key in "abc":
        assert found(graphs, key) is None
    assert found(graphs, "a") is None and found(graphs, "c") is not None


def test_equal_searches_of_many_sizes_stay_few():
    from compressae.retrieval.index.gpu import _rounded

    sizes = {_rounded(count) for count in range(1, 1025)}
    assert len(sizes) == 22 and all(_rounded(size) == size for size in sizes)
    assert all(count <= _rounded(count) < 2 * count for count in range(1, 1025))

"""The Python of the guides for other libraries runs, where these are installed."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page, heading=None):
    """Python of a page, or of a section of it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if heading is not None:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```py\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def interactions():
    """Pairs of 200 users and 1,500 items, of which some are liked by like users."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 200, 9000), rng.integers(0, 300, 9000)
    items = items * 5 + users % 5
    pairs = scipy.sparse.coo_matrix((np.ones(9000, np.float32), (users, items)), (200, 1500))
    return pairs.tocsr()


def serve(names, tmp_path, monkeypatch, capsys):
    """Run the last section: the share of the dense top 20 that codes find."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("factors.md", "Compress and serve")
    exec(block.replace("latents=1024", "latents=256"), names)
    for row, seen in zip(names["hits"].ids, names["seen"][:100], strict=True):
        left_out = seen.indices if scipy.sparse.issparse(seen) else seen
        assert not set(row.tolist()) & set(np.asarray(left_out).tolist())
    return float(re.search(r"overlap ([\d.]+)", capsys.readouterr().out)[1])


def test_implicit(interactions, tmp_path, monkeypatch, capsys):
    pytest.importorskip("implicit", reason="needs implicit (pip install implicit)")
    (block,) = blocks("factors.md", "implicit")
    names = {"interactions": interactions}
    exec(block.replace("factors=64", "factors=16, iterations=3, num_threads=1"), names)
    assert names["items"].shape == (1500, 16) and names["users"].shape == (200, 16)
    assert serve(names, tmp_path, monkeypatch, capsys) > 0.75
    scores = names["recommender"].user_factors[0] @ names["items"].T
    assert names["users"][0] @ names["items"][7] == pytest.approx(scores[7])


def test_cornac(interactions, tmp_path, monkeypatch, capsys):
    pytest.importorskip("cornac", reason="needs cornac (pip install cornac)")
    (block,) = blocks("factors.md", "cornac")
    coo = interactions.tocoo()
    triples = [(f"u{u}", f"i{i}", 1.0 + u % 5) for u, i in zip(coo.row, coo.col, strict=True)]
    names = {"triples": triples}
    exec(block.replace("k=64", "k=16, max_iter=5"), names)
    recommender, items, users = names["recommender"], names["items"], names["users"]
    assert items.shape == (len(names["ids"]), 17)
    # The model's own ranking, which has the user's bias besides.
    own, ours = recommender.score(3), users[3] @ items.T
    np.testing.assert_allclose(own - own[0], ours - ours[0], atol=1e-4)
    assert serve(names, tmp_path, monkeypatch, capsys) > 0.75


def test_recboles_attributes():
    models = pytest.importorskip(
        "recbole.model.general_recommender", reason="needs recbole, which needs numpy below 2"
    )
    import inspect

    assert "restore_item_e" in inspect.getsource(models.LightGCN)
    assert "self.item_embedding = nn.Embedding" in inspect.getsource(models.BPR)

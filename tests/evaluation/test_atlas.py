"""The atlas of latents against dense arrays, and its file."""

import gzip
import json
import os
import re

import numpy as np
import pytest
import scipy.sparse

import compressae.evaluation.atlas
from compressae import CompresSAE, InputError, compress, encode, encode_like
from compressae.evaluation.atlas import atlas, write_atlas
from compressae.retrieval import CompressedIndex, InvertedIndex
from compressae.retrieval.io.atomic import check_file_destination
from compressae.retrieval.io.labels import read_labels

D, H, T = 12, 40, 5


def dense_of(codes):
    codes = codes.unpack() if hasattr(codes, "unpack") else codes
    return codes.to_scipy().toarray()


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, H, 4, seed=1)


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((70, D)).astype(np.float32)


def changed(index, rows, first):
    """Some rows removed, one replaced, others added under ids far away."""
    index.remove([0, 3, 69])
    index.update([5], first)
    index.add(rows, ids=[200, 90, 1000, 91])
    return index


def an_index(kind, model, table):
    rng = np.random.default_rng(2)
    if kind == "matrix":  # Rows of any length, some empty, and latents that none has.
        matrix = scipy.sparse.random_array((74, H), density=0.1, rng=rng, dtype=np.float32)
        matrix = matrix.toarray() * rng.choice([-1, 1], (74, H)).astype(np.float32)
        matrix[[4, 60]] = matrix[:, [7, 30]] = 0
        matrix = scipy.sparse.csr_array(matrix)
        return changed(InvertedIndex(matrix[:70]), matrix[70:], matrix[70:71])
    codes = compress(model, table) if kind == "int2" else encode(model, table, kind)
    index = CompressedIndex(model.projection, codes, lists=kind != "int8")
    rows = encode_like(model, -table[:4], codes)
    return changed(index, rows, rows.take(np.arange(1)))


def brute(index):
    """Dense rows and their ids as they are now, from a copy that is compacted."""
    segments = index.segments.parts
    rows, ids = [], []
    for segment in segments:
        alive = slice(None) if segment.alive is None else segment.alive
        rows.append(dense_of(segment.codes)[alive])
        ids.append(segment.ids_of(np.arange(len(segment.codes)))[alive])
    return np.concatenate(rows), np.concatenate(ids)


@pytest.mark.parametrize("batch", [1 << 15, 9])
@pytest.mark.parametrize("kind", ["int2", "float32", "float16", "int8", "matrix"])
def test_it_is_what_dense_rows_say(kind, batch, model, table, monkeypatch):
    monkeypatch.setattr(compressae.evaluation.atlas, "_BATCH", batch)
    monkeypatch.setattr(compressae.evaluation.atlas, "_NEAR_BATCH", batch)
    index = an_index(kind, model, table)
    dense, ids = brute(index)
    assert len(ids) == 71 and len(index.segments.parts) > 1
    found = atlas(index, top=T)
    assert len(index.segments.parts) > 1  # The index stays as it is.
    counts = (dense != 0).sum(0)
    order = sorted(np.flatnonzero(counts), key=lambda latent: (-counts[latent], latent))
    assert (found.rows, found.latents, found.live) == (71, H, len(order))
    assert found.numbers.tolist() == order and found.counts.tolist() == counts[order].tolist()
    np.testing.assert_array_equal(found.shares, counts[order] / 71)
    assert found.nonzeros == counts.sum() / 71
    assert found.list_imbalance == pytest.approx(H * ((counts / counts.sum()) ** 2).sum())
    means = np.abs(dense[:, order].astype(np.float64)).sum(0) / counts[order]
    np.testing.assert_allclose(found.means, means)
    for sign, end in ((1, found.positive), (-1, found.negative)):
        assert end.ids.shape == end.values.shape == (len(order), T)
        for place, latent in enumerate(order):
            sizes = sign * dense[:, latent]
            best = [i for i in np.lexsort((ids, -sizes)) if sizes[i] > 0][:T]
            rest = T - len(best)
            assert end.ids[place].tolist() == [*ids[best], *[-1] * rest]
            assert end.values[place].tolist() == [*dense[best, latent], *[0] * rest]
    if kind == "matrix":
        assert H - found.live == 2 and found.near is None and found.cosines is None
        return
    cosines = model.decoder.detach().numpy() @ model.decoder.detach().numpy().T
    for place, latent in enumerate(order):
        others = [o for o in order if o != latent]
        near = sorted(others, key=lambda o: -abs(cosines[latent, o]))[:5]
        assert found.near[place].tolist() == near
        np.testing.assert_allclose(found.cosines[place], cosines[latent, near], atol=1e-6)


def test_bins_hold_every_live_latent(model, table):
    found = atlas(an_index("float32", model, table))
    expected = np.histogram(found.shares, found.edges)[0]
    assert found.bins.tolist() == expected.tolist() and found.bins.sum() == found.live
    assert found.bins[0] and found.bins[-1] and found.edges[-1] <= 1
    one = atlas(InvertedIndex(scipy.sparse.csr_array(np.eye(1, 3, dtype=np.float32))))
    assert one.bins.tolist() == [1] and one.edges[-1] == 1 and one.list_imbalance == 3


def test_ties_are_by_smaller_id_across_segments():
    rows = scipy.sparse.csr_array(np.ones((30, 2), np.float32) * [1, -1])
    index = InvertedIndex(rows, ids=np.arange(30) * 2 + 10)
    index.add(rows[:9], ids=[1, 15, 0, 13, 77, 76, 78, 5, 79])
    index.remove([0, 12])
    found = atlas(index, top=6)
    assert found.numbers.tolist() == [0, 1]
    assert found.positive.ids.tolist() == [[1, 5, 10, 13, 14, 15], [-1] * 6]
    assert found.negative.ids.tolist() == [[-1] * 6, [1, 5, 10, 13, 14, 15]]


def test_the_most_used_alone_and_near_ones_among_them(model, table):
    index = an_index("float32", model, table)
    whole, few = atlas(index), atlas(index, latents=3, top=200)
    assert few.numbers.tolist() == whole.numbers[:3].tolist() and few.live == whole.live
    assert few.bins.tolist() == whole.bins.tolist() and few.list_imbalance == whole.list_imbalance
    assert few.near.shape == (3, 2) and set(few.near.ravel()) == set(few.numbers)
    assert (few.positive.ids >= 0).sum() + (few.negative.ids >= 0).sum() == few.counts.sum()
    alone = atlas(index, latents=1)
    assert alone.near.shape == alone.cosines.shape == (1, 0)


def test_rows_without_a_nonzero(tmp_path):
    found = atlas(InvertedIndex(scipy.sparse.csr_array((4, 6), dtype=np.float32)), ["a"] * 4)
    assert (found.live, found.list_imbalance, found.nonzeros, len(found.edges)) == (0, 0, 0, 0)
    write_atlas(found, tmp_path / "page.html")


def test_labels_name_ids(model, table):
    index = an_index("float32", model, table)
    labels = [f"label {i}" for i in range(1001)]
    found = atlas(index, labels, top=2)
    shown = {*found.positive.ids.ravel().tolist(), *found.negative.ids.ravel().tolist()} - {-1}
    assert found.labels == {i: f"label {i}" for i in shown}
    assert not {0, 3, 69} & set(atlas(index, labels, top=200).labels)
    assert atlas(index, [*labels, "of a row that is not indexed"], top=2).labels == found.labels
    with pytest.raises(InputError, match="^1000 labels for ids up to 1000; expected at least 1001"):
        atlas(index, labels[:1000])
    untouched = CompressedIndex(model.projection, compress(model, table), lists=False)
    assert atlas(untouched, labels[:70]).labels
    for count, message in ((69, "69 labels for ids up to 69"), (71, "71 labels for 70 rows")):
        with pytest.raises(InputError, match=message):
            atlas(untouched, labels[:count])
    untouched.remove([69])  # The table that was indexed still has 70 rows.
    assert atlas(untouched, labels[:70]).labels and atlas(untouched, labels[:69]).labels
    for wrong in ({"top": 0}, {"latents": 0}):
        with pytest.raises(InputError, match="expected at least 1"):
            atlas(untouched, **wrong)
    untouched.remove(np.arange(69))
    with pytest.raises(InputError, match="no row is left"):
        atlas(untouched)


def test_lines_of_a_file(tmp_path):
    path, packed = tmp_path / "labels.txt", tmp_path / "labels.txt.gz"
    for text, lines in (
        (b"a\n\nc\n", ["a", "", "c"]),
        (b"a\n\nc", ["a", "", "c"]),
        (b"\xef\xbb\xbfa\r\nb\r\n", ["a", "b"]),
        ("é\u2028x\x0by\rz\n".encode(), ["é\u2028x\x0by\rz"]),
        (b"", []),
        (b"\n", [""]),
    ):
        path.write_bytes(text)
        packed.write_bytes(gzip.compress(text))
        assert read_labels(path) == read_labels(str(packed)) == lines
    path.write_bytes(b"a\nb\n\xffc\n")
    with pytest.raises(InputError, match=r"labels.txt: line 3 is not UTF-8"):
        read_labels(path)
    whole = gzip.compress(b"some text" * 99)
    for damaged in (b"a\n", whole[:-9], whole[:20] + b"damage" + whole[26:], b""):
        packed.write_bytes(damaged)
        if damaged:
            with pytest.raises(InputError, match=r"labels.txt.gz: could not be read"):
                read_labels(packed)
    with pytest.raises(InputError, match="No such file"):
        read_labels(tmp_path / "none.txt")


def held(path):
    return json.loads(re.search(r'id="data">(.*)</script>', path.read_text("utf-8"))[1])


def test_a_page_holds_each_label_once_and_cuts_it(model, table, tmp_path):
    index = an_index("float32", model, table)
    labels = [f"label <{i}> " + "x" * 400 for i in range(1001)]
    found = atlas(index, labels)
    write_atlas(found, tmp_path / "page.html", "A <title>")
    text, data = (tmp_path / "page.html").read_text("utf-8"), held(tmp_path / "page.html")
    assert "<title>A &lt;title&gt;</title>" in text
    assert all(text.count(f"label \\u003c{i}>") == 1 for i in found.labels)
    assert {len(label) for label in data["labels"]} == {300} and data["labels"][0][-1] == "…"
    for end, pairs in ((found.positive, data["positive"]), (found.negative, data["negative"])):
        for ids, values, own in zip(end.ids, end.values, pairs, strict=True):
            assert [data["ids"][place] for place in own[::2]] == ids[ids >= 0].tolist()
            np.testing.assert_allclose(own[1::2], values[ids >= 0], rtol=1e-3)


def test_ids_that_a_browser_cannot_count_to_are_text(tmp_path):
    rows = scipy.sparse.csr_array(np.ones((2, 3), np.float32))
    write_atlas(atlas(InvertedIndex(rows, ids=[1, 2**62 + 1])), tmp_path / "page.html")
    assert held(tmp_path / "page.html")["ids"] == [1, str(2**62 + 1)]


def test_half_a_character_is_written(tmp_path):
    rows = scipy.sparse.csr_array(np.ones((1, 1), np.float32))
    write_atlas(atlas(InvertedIndex(rows), ["a\ud800b"]), tmp_path / "page.html")
    assert held(tmp_path / "page.html")["labels"] == ["a?b"]


def test_a_page_is_written_whole_or_not_at_all(model, table, tmp_path, monkeypatch):
    found = atlas(CompressedIndex(model.projection, compress(model, table), lists=False))
    path = tmp_path / "page.html"
    path.write_text("older")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(InputError, match=r"page.html: could not be written \(No space left"):
            write_atlas(found, path)
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]
    write_atlas(found, path)
    assert path.read_text().startswith("<!doctype html>") and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match=r"folder .*none does not exist; create it first"):
        check_file_destination(tmp_path / "none" / "page.html")
    with pytest.raises(InputError, match="a folder stands there"):
        write_atlas(found, tmp_path)

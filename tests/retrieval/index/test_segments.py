"""Rows that come, go and change: after any sequence of operations, search is brute force."""

import threading

import numpy as np
import pytest
import scipy.sparse
from code_forms import make_codes
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from compressae import CompresSAE, InputError, encode_like
from compressae.retrieval import Catalogue, CompressedIndex, InvertedIndex, SparseCodes
from compressae.retrieval.index import inverted as inverted_module

H = 9


def sparse_rows(seed, count):
    """Small integers, so that sums are exact and ties abound."""
    rng = np.random.default_rng(seed)
    return rng.choice([0, 0, 0, -2, -1, 1, 2], (count, H)).astype(np.float32)


class Living(RuleBasedStateMachine):
    """An index beside a dictionary of what it should hold."""

    @initialize(seed=st.integers(0, 99), count=st.integers(1, 12), named=st.booleans())
    def build(self, seed, count, named):
        ids = np.random.default_rng(seed).permutation(40)[:count] if named else np.arange(count)
        rows = sparse_rows(seed, count)
        self.rows = dict(zip(ids.tolist(), rows, strict=True))
        self.index = InvertedIndex(scipy.sparse.csr_array(rows), ids=ids if named else None)
        self.next = max(self.rows) + 1

    @rule(seed=st.integers(0, 99), count=st.integers(1, 6))
    def add(self, seed, count):
        rows = sparse_rows(seed, count)
        ids = self.index.add(scipy.sparse.csr_array(rows))
        assert ids.tolist() == list(range(self.next, self.next + count))
        self.rows |= dict(zip(ids.tolist(), rows, strict=True))
        self.next += count

    @rule(seed=st.integers(0, 99), count=st.integers(1, 4))
    def add_by_id(self, seed, count):
        free = np.setdiff1d(np.arange(80), list(self.rows))
        ids = np.random.default_rng(seed).permutation(free)[:count]
        if len(ids):
            rows = sparse_rows(seed, len(ids))
            self.index.add(SparseCodes.from_scipy(scipy.sparse.csr_array(rows)), ids)
            self.rows |= dict(zip(ids.tolist(), rows, strict=True))
            self.next = max(self.next, int(ids.max()) + 1)

    @rule(seed=st.integers(0, 99), count=st.integers(1, 5))
    def remove(self, seed, count):
        ids = np.random.default_rng(seed).permutation(sorted(self.rows))[:count].astype(int)
        self.index.remove(ids)
        for one in ids.tolist():
            del self.rows[one]

    @rule(seed=st.integers(0, 99), count=st.integers(1, 5))
    def update(self, seed, count):
        ids = np.random.default_rng(seed).permutation(sorted(self.rows))[:count].astype(int)
        if len(ids):
            rows = sparse_rows(seed + 1, len(ids))
            self.index.update(ids, scipy.sparse.csr_array(rows))
            self.rows |= dict(zip(ids.tolist(), rows, strict=True))

    @rule()
    def compact(self):
        self.index.compact()
        if self.rows:
            assert self.index.segments.whole

    @rule()
    def refuse(self):
        before = self.index.segments.parts
        one = scipy.sparse.csr_array(sparse_rows(0, 1))
        if self.rows:
            with pytest.raises(InputError, match="is in the index already"):
                self.index.add(one, [next(iter(self.rows))])
        with pytest.raises(InputError, match="id 999 is not in the index"):
            self.index.update([999], one)
        with pytest.raises(InputError, match="id 999 is not in the index"):
            self.index.remove([*list(self.rows)[:1], 999])
        assert self.index.segments.parts is before

    @invariant()
    def answers_are_brute_force(self):
        if not hasattr(self, "rows"):
            return
        assert len(self.index) == len(self.rows)
        assert len(self.index.segments.parts) <= 8
        ids = np.array(sorted(self.rows), np.int64)
        rows = np.array([self.rows[i] for i in ids.tolist()]).reshape(-1, H)
        queries = sparse_rows(len(ids), 3)
        some = ids[::2]
        flags = np.zeros(200, bool)
        flags[some] = True
        for allowed in (None, some, np.append(some, 150), flags):
            kept = np.ones(len(ids), bool) if allowed is None else np.isin(ids, some)
            for few in (0, 4096):
                inverted_module._FEW = few  # Through the lists, and one by one.
                hits = self.index.search(scipy.sparse.csr_array(queries), 7, allowed)
                for i, query in enumerate(queries):
                    if not query.any():
                        assert (hits.ids[i] == -1).all()
                        continue
                    scores = rows[kept] @ query
                    order = np.argsort(-scores, kind="stable")[:7]
                    found = len(order)
                    np.testing.assert_array_equal(hits.ids[i, :found], ids[kept][order])
                    np.testing.assert_array_equal(hits.scores[i, :found], scores[order])
                    assert (hits.ids[i, found:] == -1).all()


Living.TestCase.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
TestLiving = Living.TestCase


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(inverted_module, "_FEW", 4096)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "int2", "budget"])
def test_a_compressed_index_lives(kind, tmp_path):
    """Through adding, changing and removing, and a save between, as an index built at once."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((400, 12)).astype(np.float32)
    model = CompresSAE(12, 64, 5, seed=1)
    model.settings = {"recipe": "pursuit"}
    how = dict(budget="9 B/row") if kind == "budget" else dict(values=kind)
    index = CompressedIndex(model.projection, make_codes(model, table[:300], **how))
    index.search(table[:2], 3, "sparse")

    def like_ours(rows):
        return encode_like(model, rows, index.codes)

    assert index.add(like_ours(table[300:340])).tolist() == list(range(300, 340))
    index.remove(np.arange(100, 140))
    index.update([3, 310], like_ours(table[[350, 351]]))
    codes = index.codes
    assert len(index) == len(codes) == 300 and index.codes.shape == (300, 64)
    index.add(like_ours(table[360:370]), ids=np.arange(1010, 1000, -1))
    with pytest.raises(InputError, match="id 5 is in the index already"):
        index.add(like_ours(table[:1]), ids=[5])
    with pytest.raises(InputError, match="rows of 11 columns"):
        like_ours(table[:1, :11])
    parts = index.segments.parts
    assert len(parts) > 1
    Catalogue.write(tmp_path / "index", index)
    assert index.codes.shape == (310, 64) and index.segments.parts is parts
    index.compact()  # As the saved one is: candidates at the cut-off depend on it.
    loaded = Catalogue.open(tmp_path / "index").index
    assert loaded.segments.whole and len(loaded) == 310
    queries = np.concatenate([table[[350, 351, 305, 100]], table[360:362]])
    for scoring in ("asymmetric", "sparse", "reconstructed"):
        for candidates in ("all", 100):
            before, after = (i.search(queries, 9, scoring, candidates) for i in (index, loaded))
            np.testing.assert_array_equal(before.ids, after.ids)
            np.testing.assert_array_equal(before.scores, after.scores)
            assert not np.isin(before.ids, np.arange(100, 140)).any()
    nearest = index.search(queries, 9).ids
    for row, own in zip(nearest, [3, 310, 305, None, 1010, 1009], strict=True):
        assert own is None or own in row
    assert loaded.add(like_ours(table[:1])).tolist() == [1011]
    allowed = index.search(queries, 400, allowed=[1005, 7, 999_999, 110])
    assert (np.sort(allowed.ids[:, :2]) == [7, 1005]).all() and (allowed.ids[:, 2:] == -1).all()


def test_two_stages_with_tails_are_those_of_one_segment():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((870, 12)).astype(np.float32)
    model = CompresSAE(12, 64, 5, seed=1)
    index = CompressedIndex(model.projection, make_codes(model, table, "float32"))
    whole = index.search(table[:20], 5, candidates=60)
    tails = CompressedIndex(model.projection, index.codes.take(np.arange(400)))
    for start, stop in ((400, 700), (700, 820), (820, 870)):
        tails.segments.add(index.codes.take(np.arange(start, stop)))
    assert len(tails.segments.parts) == 4
    parts = tails.search(table[:20], 5, candidates=60)
    assert (parts.ids == whole.ids).mean() > 0.97  # Candidates at the edge may differ.
    everything = tails.search(table[:20], 5, candidates="all")
    np.testing.assert_array_equal(everything.ids, index.search(table[:20], 5, candidates="all").ids)


def test_an_emptied_index_finds_nothing_and_is_not_saved(tmp_path):
    index = InvertedIndex(scipy.sparse.eye_array(3))
    index.remove([0, 1, 2])
    assert len(index) == 0 and (index.search(scipy.sparse.eye_array(3), 2).ids == -1).all()
    with pytest.raises(InputError, match="no row is left"):
        Catalogue.write(tmp_path / "index", index)
    assert not (tmp_path / "index").exists()
    assert index.add(scipy.sparse.eye_array(3)).tolist() == [3, 4, 5]
    Catalogue.write(tmp_path / "index", index)
    loaded = Catalogue.open(tmp_path / "index").index
    assert loaded.search(scipy.sparse.eye_array(3), 1).ids[:, 0].tolist() == [3, 4, 5]

    rng = np.random.default_rng(0)
    model = CompresSAE(4, 8, 2)
    compressed = CompressedIndex(model.projection, make_codes(model, rng.standard_normal((3, 4))))
    compressed.remove([2, 0, 1])
    for scoring in ("asymmetric", "sparse", "reconstructed"):
        assert (compressed.search(rng.standard_normal((2, 4)), 2, scoring).ids == -1).all()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 1], "id 1 is given more than once"),
        ([0.5, 1], "expected whole numbers"),
        ([[1, 2]], "expected whole numbers"),
        ([1], "1 ids for 2 rows"),
        ([-1, 1], "expected 0 to"),
        ([2**63, 1], "expected 0 to|whole numbers"),
    ],
)
def test_bad_ids_are_refused(ids, message):
    rows = scipy.sparse.csr_array(sparse_rows(0, 2))
    with pytest.raises(InputError, match=message):
        InvertedIndex(rows, ids=ids)
    index = InvertedIndex(rows)
    with pytest.raises(InputError, match=message):
        index.add(rows, np.array(ids) if message != "1 ids for 2 rows" else ids)
    assert len(index) == 2


@pytest.mark.parametrize("allowed", [[0.5], [[1]], "ab", np.ones(1, bool)])
def test_bad_restrictions_are_refused(allowed):
    index = InvertedIndex(scipy.sparse.csr_array(sparse_rows(0, 2)))
    with pytest.raises(InputError, match="allowed: "):
        index.search(scipy.sparse.csr_array(sparse_rows(0, 1)), 1, allowed)
    assert (index.search(scipy.sparse.csr_array(sparse_rows(0, 1)), 1, []).ids == -1).all()


def test_rows_of_another_kind_are_refused():
    rng = np.random.default_rng(0)
    model, other = CompresSAE(8, 16, 3, seed=0), CompresSAE(8, 16, 3, seed=1)
    table = rng.standard_normal((300, 8)).astype(np.float32)
    index = InvertedIndex(make_codes(model, table))
    with pytest.raises(InputError, match="expected packed codes"):
        index.add(scipy.sparse.random_array((2, 16), density=0.5))
    with pytest.raises(InputError, match="another model or quantiser"):
        index.add(make_codes(other, table))
    with pytest.raises(InputError, match="another model or quantiser"):
        index.add(make_codes(model, table[:280] + 1))
    index.add(make_codes(model, table[:2], like=index.codes))
    plain = InvertedIndex(make_codes(model, table, "float32"))
    with pytest.raises(InputError, match="expected float32 of model"):
        plain.add(make_codes(model, table[:2], "int8"))
    with pytest.raises(InputError, match="over 9 latents; expected SparseCodes over 16"):
        plain.add(scipy.sparse.random_array((2, 9), density=0.5))
    assert len(index) == 302 and len(plain) == 300


def test_a_search_works_on_the_rows_of_its_start():
    """While another thread adds and removes, each answer is of one state."""
    index = InvertedIndex(scipy.sparse.csr_array(np.ones((1, 1), np.float32)))
    query, stop, wrong = scipy.sparse.csr_array(np.ones((1, 1), np.float32)), False, []

    def search():
        while not stop:
            found = index.search(query, 100).ids[0]
            found = found[found >= 0].tolist()
            if found not in ([0], [0, 7, 8]):
                wrong.append(found)

    thread = threading.Thread(target=search)
    thread.start()
    for _ in range(200):
        index.add(scipy.sparse.csr_array(np.ones((2, 1), np.float32)), [7, 8])
        index.remove([8, 7])
    stop = True
    thread.join()
    assert wrong == []


def test_ids_are_not_given_twice_by_themselves(tmp_path):
    index = InvertedIndex(scipy.sparse.eye_array(3))
    index.remove(index.add(scipy.sparse.eye_array(3)))
    Catalogue.write(tmp_path / "index", index)
    loaded = Catalogue.open(tmp_path / "index").index
    assert loaded.add(scipy.sparse.eye_array(3)).tolist() == [6, 7, 8]
    last = InvertedIndex(scipy.sparse.eye_array(3), ids=[1, 2, 2**63 - 2])
    with pytest.raises(InputError, match="no ids are left"):
        last.add(scipy.sparse.eye_array(3))
    assert last.add(scipy.sparse.eye_array(3), [0, 5, 7]).tolist() == [0, 5, 7]


def test_flags_and_tables_may_end_where_the_rows_left_do():
    index = InvertedIndex(scipy.sparse.eye_array(5))
    index.remove([3, 4])
    hits = index.search(scipy.sparse.eye_array(5), 5, [True, True, False])
    assert (np.sort(hits.ids[:, :2]) == [0, 1]).all() and (hits.ids[:, 2:] == -1).all()
    with pytest.raises(InputError, match="2 flags; expected one for each id, up to 2"):
        index.search(scipy.sparse.eye_array(5), 5, [True, True])


def test_bytes_are_told_without_a_rebuild_and_follow_the_rows():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((300, 8)).astype(np.float32)
    model = CompresSAE(8, 32, 4, seed=0)
    index = CompressedIndex(model.projection, make_codes(model, table))
    before = index.nbytes
    index.search(table[:2], 2, "sparse")
    assert before < index.nbytes
    index.add(encode_like(model, table[:5], index.codes))
    assert len(index.segments.parts) == 2 and before < index.nbytes
    assert len(index.segments.parts) == 2


def test_many_items_alike_hide_no_better_one():
    """More rows of one sum than a query has room for: the last row is found all the same."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((1, 12)).repeat(12_000, 0)
    table[-1] += 0.3 * rng.standard_normal(12)
    model = CompresSAE(12, 64, 5, seed=1)
    model.settings = {"recipe": "pursuit"}
    index = CompressedIndex(model.projection, make_codes(model, table, "float32"))
    query = table[-1:]
    want = index.search(query, 3, candidates="all")
    got = index.search(query, 3, candidates=50)
    np.testing.assert_array_equal(got.ids, want.ids)
    assert want.ids[0, 0] == 11_999

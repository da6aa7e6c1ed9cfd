"""The catalogue on disk: changes, versions, ids, filters, many processes."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from code_forms import make_codes
from scipy import sparse

from compressae import CompresSAE, InputError, encode_like
from compressae.kernels import candidates
from compressae.retrieval import Catalogue, CompressedIndex, InvertedIndex, SparseCodes
from compressae.retrieval.index import two_stage
from compressae.retrieval.index.compressed import SearchSettings

H = 9


def rows_of(seed, count):
    """Small integers, so that sums are exact and ties abound."""
    rng = np.random.default_rng(seed)
    dense = rng.choice([0, 0, -2, -1, 1, 2], (count, H)).astype(np.float32)
    return sparse.csr_array(dense)


def queries_of(seed, count=4):
    dense = np.random.default_rng(seed).choice([-1, 1, 2], (count, H)).astype(np.float32)
    return sparse.csr_array(dense)


@pytest.fixture
def lists(tmp_path):
    return Catalogue.create(tmp_path / "lists", None, rows_of(0, 30))


@pytest.fixture
def texts(tmp_path):
    names = [f"item-{i}" for i in range(30)]
    return Catalogue.create(tmp_path / "texts", None, rows_of(0, 30), names)


@pytest.fixture(scope="module")
def model():
    model = CompresSAE(12, 64, 5, seed=1)
    model.settings = {"recipe": "pursuit"}
    return model


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((400, 12)).astype(np.float32)


def assert_same(one, other):
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.scores, other.scores)


@pytest.fixture
def small_groups(monkeypatch):
    """Searches that read ahead do so a window and a few rows at a time."""
    monkeypatch.setattr(candidates, "BYTES_AHEAD", 1)
    monkeypatch.setattr(two_stage, "ROWS_AHEAD", 7)


def missing(catalogue):
    return [part.pages.missing for part in catalogue.index.segments.parts]


@pytest.mark.parametrize("kind", ["float32", "int8", "budget", "residual"])
def test_a_search_that_reads_ahead_answers_as_one_in_memory(
    kind, tmp_path, model, table, small_groups
):
    how = {"budget": dict(budget="9 B/row"), "residual": dict(residual_bytes=3)}
    rng = np.random.default_rng(0)
    many = rng.standard_normal((3000, 12)).astype(np.float32)
    codes = make_codes(model, many, **how.get(kind, dict(values=kind)))
    codes = codes.take(rng.integers(0, 3000, 140_000))  # Three windows.
    index = CompressedIndex(model.projection, codes)
    path = Catalogue.write(tmp_path / "c", index).path
    seen = sparse.csr_array(np.ones((70, 300), np.int8))
    for options in ({}, {"allowed": np.arange(0, 140_000, 2)}, {"exclude": seen}):
        for count in (1, 70):
            if "exclude" in options:
                options["exclude"] = seen[:count]
            catalogue = Catalogue.open(path)
            assert missing(catalogue) == [True]  # Nothing is known yet: it reads ahead.
            hits = catalogue.search(table[:count], 200, candidates=600, **options)
            assert_same(hits, index.search(table[:count], 200, candidates=600, **options))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_sparse_rows_are_read_ahead(tmp_path, similarity, small_groups):
    rows = rows_of(5, 140_000)
    index = InvertedIndex(rows, similarity=similarity)
    catalogue = Catalogue.write(tmp_path / "c", index)
    assert missing(catalogue) == [True]
    assert_same(catalogue.search(queries_of(6, 70), 10), index.search(queries_of(6, 70), 10))


def test_pages_that_are_in_memory_are_not_asked_for(lists):
    for _ in range(2):
        lists.search(queries_of(0), 3)
    assert missing(lists) == [False]
    lists.add(rows_of(1, 3))
    assert missing(lists) == [False, True]
    assert [part.from_disk for part in InvertedIndex(rows_of(0, 3)).segments.parts] == [False]


@pytest.mark.parametrize("kind", ["float32", "int8", "int2", "budget", "residual", "dot", "scan"])
def test_answers_are_those_of_the_index_in_memory(kind, tmp_path, model, table):
    how = {
        "budget": dict(budget="9 B/row"),
        "residual": dict(residual_bytes=3),
        "dot": dict(similarity="dot", residual_bytes=3),
        "scan": {},
    }.get(kind, dict(values=kind))
    settings = dict(lists=False) if kind == "scan" else {}
    codes = make_codes(model, table[:300], **how)
    index = CompressedIndex(model.projection, codes, **settings)
    catalogue = Catalogue.create(tmp_path / "c", model.projection, codes, **settings)
    more = encode_like(model, table[300:], catalogue.like)
    for one in (index, catalogue):
        one.add(more)
        one.remove([0, 5, 301])
        one.update([7, 350], encode_like(model, table[:2], catalogue.like))
    opened = Catalogue.open(tmp_path / "c", verify=True)
    for searcher in (catalogue, opened):
        for options in ({}, {"candidates": "all"}, {"allowed": np.arange(0, 400, 3)}):
            if kind == "scan":
                options = {name: value for name, value in options.items() if name != "candidates"}
            assert_same(
                searcher.search(table[:9], 10, **options), index.search(table[:9], 10, **options)
            )
    assert (catalogue.version, len(catalogue)) == (4, len(index))


@pytest.mark.parametrize("list_type", ["int8", "float32"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_sparse_rows_of_both_similarities(tmp_path, similarity, list_type):
    settings = dict(similarity=similarity, list_type=list_type)
    index = InvertedIndex(rows_of(0, 30), **settings)
    Catalogue.create(tmp_path / "c", None, rows_of(0, 30), **settings)
    catalogue = Catalogue.open(tmp_path / "c")
    for one in (index, catalogue):
        one.add(rows_of(1, 5), [50, 40, 45, 99, 41])
        one.remove([3])
        one.compact()
    assert_same(
        Catalogue.open(tmp_path / "c").search(queries_of(0), 7), index.search(queries_of(0), 7)
    )
    assert catalogue.index.similarity == similarity and catalogue.index.list_type == list_type


def test_ids_that_are_texts_are_given_and_returned(texts):
    hits = texts.search(rows_of(0, 30)[[7]], 40)
    assert hits.ids.dtype.kind == "U"
    assert sorted(hits.ids[0][hits.ids[0] != ""]) == sorted(f"item-{i}" for i in range(30))
    assert (hits.scores[0][hits.ids[0] == ""] == -np.inf).all()
    texts.add(rows_of(1, 2), ["ünïcode", "a" * 255])
    texts.remove(["item-3"])
    texts.update(["item-4"], rows_of(9, 1))
    texts.add(rows_of(2, 1), ["item-3"])
    assert texts.put(rows_of(3, 2), ["item-3", "new"]) == 1
    texts.compact()
    expected = {f"item-{i}" for i in range(30)} | {"ünïcode", "a" * 255, "new"}
    reopened = Catalogue.open(texts.path, verify=True)
    found = reopened.search(queries_of(0, 1), 50).ids[0]
    assert set(found) - {""} == expected
    with reopened.writing() as change:
        assert change.known(["item-3", "gone", "new"]).tolist() == [True, False, True]


def test_rows_named_by_texts_answer_as_numbered_ones(tmp_path):
    rows, queries = rows_of(0, 30), queries_of(1)
    numbered = Catalogue.create(tmp_path / "a", None, rows)
    named = Catalogue.create(tmp_path / "b", None, rows, [f"{i:02d}" for i in range(30)])
    seen = sparse.csr_array(np.eye(4, 30, dtype=np.int8))
    each = [[f"{i:02d}"] for i in range(4)]
    for options, own in (
        ({}, {}),
        ({"allowed": [1, 5, 29]}, {"allowed": ["01", "05", "29", "unknown"]}),
        ({"exclude": seen}, {"exclude": each}),
        ({"exclude": seen, "allowed": [0, 2, 9]}, {"exclude": each, "allowed": ["00", "02", "09"]}),
    ):
        expected = numbered.search(queries, 8, **options)
        hits = named.search(queries, 8, **own)
        ids = np.where(expected.ids < 0, "", np.char.zfill(expected.ids.astype(str), 2))
        np.testing.assert_array_equal(hits.ids, ids)
        np.testing.assert_array_equal(hits.scores, expected.scores)
    by_sequence = numbered.search(queries, 8, exclude=[[0], [1], [2], [3]])
    assert_same(by_sequence, numbered.search(queries, 8, exclude=seen))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "a"], "'a' is given more than once"),
        (["", "a"], "takes 0 bytes"),
        (["x" * 256, "a"], "takes 256 bytes; expected 1 to 255"),
        (["a\0", "b"], "character of code 0"),
        (["a"], "1 ids for 2 rows"),
        ([1.5, 2.5], "expected whole numbers"),
        ([-1, 2], "expected 0 to"),
        (["\ud800", "b"], "no UTF-8 text"),
    ],
)
def test_ids_that_cannot_be_are_refused(tmp_path, ids, message):
    with pytest.raises(InputError, match=message):
        Catalogue.create(tmp_path / "c", None, rows_of(0, 2), ids)
    assert list(tmp_path.iterdir()) == []


def test_refused_changes_leave_everything_as_it_is(texts, lists):
    before = {path: path.stat().st_mtime_ns for path in texts.path.rglob("*.json")}
    for change, message in (
        (lambda c: c.add(rows_of(1, 1), ["item-3"]), "'item-3' is in the index already"),
        (lambda c: c.add(rows_of(1, 1)), "ids are missing"),
        (lambda c: c.add(rows_of(1, 2), ["x"]), "1 ids for 2 rows"),
        (lambda c: c.remove(["item-3", "nobody"]), "'nobody' is not in the index"),
        (lambda c: c.update(["nobody"], rows_of(1, 1)), "'nobody' is not in the index"),
        (lambda c: c.add(sparse.csr_array(np.ones((1, H + 1))), ["x"]), "latents"),
        (lambda c: c.rollback(5), "no such version"),
        (lambda c: c.prune(0), "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            change(texts)
    assert {path: path.stat().st_mtime_ns for path in texts.path.rglob("*.json")} == before
    assert texts.version == 1
    with pytest.raises(InputError, match="in the index already"):
        lists.add(rows_of(1, 1), [3])
    for change in (lambda: lists.remove(["a"]), lambda: lists.put(rows_of(1, 1), ["a"])):
        with pytest.raises(InputError, match="expected whole numbers"):
            change()
    with pytest.raises(InputError, match="3 is given more than once"):
        lists.put(rows_of(1, 2), [3, 3])
    assert lists.version == 1


def test_a_block_is_one_version_or_none(lists):
    with lists.writing() as change:
        change.remove([1, 2])
        added = change.add(rows_of(1, 3))
        change.remove(added[:1])
    assert (lists.version, len(lists), added.tolist()) == (2, 30, [30, 31, 32])
    assert lists.versions()[-1].change == "remove 2, add 3, remove 1"

    def fail():
        with lists.writing() as change:
            change.remove([5])
            raise RuntimeError("on second thought")

    with pytest.raises(RuntimeError, match="on second thought"):
        fail()
    with lists.writing():
        pass  # Nothing is changed, and no version made.
    assert (lists.version, len(lists)) == (2, 30)
    with lists.writing(), pytest.raises(InputError, match="being changed by this thread"):
        lists.remove([4])


def test_versions_roll_back_and_are_pruned(lists):
    first = lists.search(queries_of(0), 9)
    lists.remove([0, 1])
    lists.add(rows_of(1, 4))
    third = lists.search(queries_of(0), 9)
    lists.rollback(1)
    assert_same(lists.search(queries_of(0), 9), first)
    assert lists.add(rows_of(2, 1)).tolist() == [34]  # Numbers are not given twice.
    assert_same(Catalogue.open(lists.path, version=3).search(queries_of(0), 9), third)
    assert [version.number for version in lists.versions()] == [1, 2, 3, 4, 5]
    assert lists.versions()[3].change == "roll back to 1"
    old = Catalogue.open(lists.path, version=3)
    assert lists.prune(keep=2) > 0
    assert [version.number for version in lists.versions()] == [4, 5]
    assert_same(old.search(queries_of(0), 9), third)  # What is open stays open.
    with pytest.raises(InputError, match="no version 3; expected one of 4 to 5"):
        Catalogue.open(lists.path, version=3)
    with pytest.raises(InputError, match="no such version"):
        lists.rollback(3)
    assert old.refresh() and old.version == 5 and not old.refresh()
    lists.compact()
    lists.prune()
    assert len(list((lists.path / "segments").iterdir())) == 1
    assert list((lists.path / "removals").iterdir()) == []
    Catalogue.open(lists.path, verify=True)


def test_a_damaged_newest_version_is_rolled_back(lists):
    lists.remove([0])
    path = lists.path / "versions" / f"{2:010d}.json"
    path.write_text(path.read_text().replace('"rows": 29', '"rows": 28'))
    with pytest.raises(InputError, match="its checksum differs.*roll back"):
        Catalogue.open(lists.path)
    catalogue = Catalogue.open(lists.path, version=1)
    catalogue.rollback(1)
    assert len(Catalogue.open(lists.path)) == 30


def test_a_lost_newest_version_is_noticed_and_rolled_back(lists):
    lists.add(rows_of(1, 3))
    lists.remove([4])
    reader, _ = Catalogue.open(lists.path, version=2), lists.add(rows_of(2, 1))
    (lists.path / "versions" / "0000000004.json").unlink()
    for attempt in (
        lambda: Catalogue.open(lists.path),
        reader.refresh,
        lambda: reader.add(rows_of(3, 1)),
        lambda: reader.prune(),
    ):
        with pytest.raises(InputError, match=r"0000000004\.json: missing, and it was the newest"):
            attempt()
    assert [version.number for version in reader.versions()] == [1, 2, 3]
    with pytest.raises(InputError, match="no such version"):
        reader.rollback(4)
    reader.rollback(3)
    assert reader.version == 5
    assert (Catalogue.open(lists.path, verify=True).version, len(reader)) == (5, 32)
    reader.prune()
    assert Catalogue.open(lists.path).version == 5


@pytest.mark.parametrize("content", [None, "1\n"], ids=["of an older compressae", "behind"])
def test_a_note_that_was_not_written_takes_no_version_back(lists, content):
    lists.add(rows_of(1, 3))
    note = lists.path / "newest"
    assert note.read_text() == "2\n"
    note.unlink() if content is None else note.write_text(content)
    assert Catalogue.open(lists.path).version == 2
    lists.remove([0])
    assert (Catalogue.open(lists.path).version, note.read_text()) == (3, "3\n")


@pytest.mark.parametrize("content", [b"", b"x\n", b"-1\n", b"9" * 30, b"\x1b[31m\n"])
def test_a_damaged_note_is_named(lists, content):
    note = lists.path / "newest"
    note.write_bytes(content)
    with pytest.raises(InputError, match="newest: damaged; delete it"):
        Catalogue.open(lists.path)
    note.unlink()
    assert Catalogue.open(lists.path).version == 1


def test_bytes_written_follow_the_change(tmp_path):
    catalogue = Catalogue.create(tmp_path / "c", None, rows_of(0, 20_000))

    def written(change):
        before = {path for path in catalogue.path.rglob("*") if path.is_file()}
        change()
        return sum(
            p.stat().st_size for p in catalogue.path.rglob("*") if p.is_file() and p not in before
        )

    assert catalogue.nbytes > 500_000
    assert written(lambda: catalogue.add(rows_of(1, 10))) < 8_000
    assert written(lambda: catalogue.remove([4])) < 4_000
    assert written(lambda: catalogue.update([7], rows_of(2, 1))) < 10_000
    # Each removed row is written a logarithmic number of times, into few files.
    total = sum(written(lambda i=i: catalogue.remove([i])) for i in range(100, 164))
    assert total < 64 * 6_000
    assert len(catalogue.versions()[-1].removals) <= 8
    for i in range(40):
        catalogue.add(rows_of(i, 3))
    assert len(catalogue.versions()[-1].segments) <= 8


def test_search_settings_belong_to_a_version(tmp_path, model, table):
    codes = make_codes(model, table)
    catalogue = Catalogue.create(tmp_path / "c", model.projection, codes)
    with catalogue.writing() as change:
        change.configure(SearchSettings(query_nonzeros=7, candidates=50, tuned=(10, 50)))
    index = Catalogue.open(tmp_path / "c").index
    assert (index.query_nonzeros, index.candidates, index.tuned) == (7, 50, (10, 50))
    catalogue.rollback(1)
    assert (catalogue.index.query_nonzeros, catalogue.index.candidates) == (64, None)


def test_search_settings_of_sparse_queries_are_refused(lists):
    with lists.writing() as change, pytest.raises(InputError, match="with a model"):
        change.configure(SearchSettings())


def _write_elsewhere(path, started, done):
    with Catalogue.open(path).writing() as change:
        change.remove([3])
        started.set()
        done.wait(30)


def test_a_second_writer_is_refused_and_a_dead_ones_lock_is_free(lists):
    context = multiprocessing.get_context("spawn")
    started, done = context.Event(), context.Event()
    other = context.Process(target=_write_elsewhere, args=(lists.path, started, done))
    other.start()
    assert started.wait(60)
    with pytest.raises(InputError, match="another process is writing to it; try again"):
        lists.remove([4])
    with pytest.raises(InputError, match="another process is writing"):
        Catalogue.create(lists.path, None, rows_of(5, 3), overwrite=True)
    assert len(lists.search(queries_of(0), 3)) == 4  # Readers go on.
    other.kill()
    other.join()
    lists.remove([4])
    assert (lists.version, len(lists)) == (2, 29)  # What the dead one had in hand is not there.
    lists.remove([3])


def test_waiting_for_another_writer(lists):
    other = Catalogue.open(lists.path)
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with other.writing() as change:
            change.remove([1])
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(30)
    threading.Timer(0.3, leave.set).start()
    with lists.writing(wait=30) as change:
        change.remove([2])  # On top of the other's change, which would be lost otherwise.
    thread.join()
    assert (lists.version, len(lists)) == (3, 28)


def test_threads_search_during_changes(lists):
    """Each search answers as one version does."""
    queries, expected, failures = queries_of(3), {}, []
    expected[1] = lists.search(queries, 9).ids
    stop = threading.Event()

    def search():
        reader = Catalogue.open(lists.path)
        while not stop.is_set():
            for catalogue in (lists, reader):
                ids = catalogue.search(queries, 9).ids
                if not any(np.array_equal(ids, known) for known in list(expected.values())):
                    failures.append(ids)
            reader.refresh()

    oracle = InvertedIndex(rows_of(0, 30))
    changes = []
    for i in range(25):  # What comes is known before it happens.
        if i % 2:
            oracle.remove([i])
        else:
            oracle.add(rows_of(i, 2))
        expected[i + 2] = oracle.search(queries, 9).ids
        changes.append(i)
    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in changes:
        if i % 2:
            lists.remove([i])
        else:
            lists.add(rows_of(i, 2))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    np.testing.assert_array_equal(lists.search(queries, 9).ids, expected[26])


def test_a_place_is_not_taken_from_others(tmp_path, lists):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    SparseCodes.from_scipy(rows_of(0, 3)).save(tmp_path / "codes")
    for name, message in (
        ("home", "is no artifact"),
        ("codes", "is codes"),
        ("lists", "an older catalogue"),
    ):
        with pytest.raises(InputError, match=message):
            Catalogue.create(tmp_path / name, None, rows_of(1, 3))
    (lists.path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt, which is no part"):
        Catalogue.create(lists.path, None, rows_of(1, 3), overwrite=True)
    (lists.path / "notes.txt").unlink()
    reader = Catalogue.open(lists.path)
    before = reader.search(queries_of(0), 5)
    replaced = Catalogue.create(lists.path, None, rows_of(1, 3), overwrite=True)
    assert len(replaced) == 3
    assert_same(reader.search(queries_of(0), 5), before)
    with pytest.raises(InputError, match="was replaced by another catalogue; open it again"):
        replaced.remove([0])
        reader.refresh()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes", "home", "lists"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_catalogue_is_searched_and_not_changed(lists):
    for folder in (lists.path, *lists.path.iterdir()):
        if folder.is_dir():
            folder.chmod(0o555)
    catalogue = Catalogue.open(lists.path)
    assert len(catalogue.search(queries_of(0), 3)) == 4
    with pytest.raises(InputError, match="cannot be written|could not be written"):
        catalogue.remove([1])


def test_parts_that_are_missing_are_named(lists):
    lists.add(rows_of(1, 3))
    segment = next((lists.path / "segments").glob("0000000002-*"))
    config = json.loads((segment / "config.json").read_text())
    assert config["settings"] == {"rows": 3}
    for path, message in (
        (segment / "rows.safetensors", r"rows\.safetensors: missing"),
        (segment / "config.json", r"config\.json: missing"),
        (segment, r"config\.json: missing"),
        (lists.path / "versions", "no versions"),
        (lists.path / "config.json", r"holds no config\.json"),
    ):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(InputError, match=message):
            Catalogue.open(lists.path)
    with pytest.raises(InputError, match="no such folder; expected a catalogue"):
        Catalogue.open(lists.path / "nothing")


#: Searches within a quarter of the catalogue's size of anonymous memory; mapped pages come and go.
_SMALL = """
import json, resource, sys
import numpy as np
from compressae.retrieval import Catalogue

path, size = sys.argv[1], int(sys.argv[2])
queries = np.load(sys.argv[3])
catalogue = Catalogue.open(path, threads=1)
catalogue.search(queries, 10)  # BLAS allots its buffers once.
with open("/proc/self/status") as file:
    held = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (held + size // 4,) * 2)
try:
    np.ones(size, np.uint8)
    raise SystemExit("the limit does not hold")
except MemoryError:
    pass
print(json.dumps(catalogue.search(queries, 10).ids.tolist()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA bounds maps on Linux")
def test_a_catalogue_of_four_times_the_memory_allowed_is_searched(tmp_path, model, table):
    codes = make_codes(model, table, residual_bytes=4)
    many = codes.take(np.random.default_rng(0).integers(0, len(codes), 3_000_000))
    index = CompressedIndex(model.projection, many, threads=1)
    catalogue = Catalogue.write(tmp_path / "c", index)
    np.save(tmp_path / "queries.npy", table[:5])
    assert catalogue.nbytes > 60_000_000
    command = [sys.executable, "-c", _SMALL, str(catalogue.path), str(catalogue.nbytes)]
    done = subprocess.run([*command, str(tmp_path / "queries.npy")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == index.search(table[:5], 10).ids.tolist()


def test_a_change_of_a_catalogue_that_was_replaced_is_refused(lists):
    new = Catalogue.create(lists.path, None, rows_of(8, 20), overwrite=True)
    with pytest.raises(InputError, match="replaced by another catalogue"):
        lists.add(rows_of(1, 2))
    assert [version.number for version in new.versions()] == [1]
    assert len(Catalogue.open(lists.path, verify=True)) == 20


def test_a_refresh_that_comes_late_does_not_go_back(lists):
    writer = Catalogue.open(lists.path)
    writer.remove([1])
    late = lists._root.open_version(lists.versions()[-1], lists._view)
    writer.remove([2])
    lists.refresh()
    assert not lists._move(late)
    assert (lists.version, len(lists)) == (3, 28)

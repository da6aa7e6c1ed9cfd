"""Tables and artifacts behind URLs: in the memory of this process, and over HTTP."""

import io
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from commands import call, refused, succeed
from safetensors.numpy import save
from servers import files_over_http, serving

from compressae import CompresSAE, InputError, open_embeddings
from compressae.retrieval import Catalogue, PackedCodes
from compressae.retrieval.io.artifacts import save_artifact
from compressae.retrieval.io.remote import RemotePath
from compressae.retrieval.store.metadata import as_table

fsspec = pytest.importorskip("fsspec", reason="needs fsspec (pip install 'compressae[remote]')")
N, D = 3000, 8


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def parquet(**columns):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), file, row_group_size=500)
    return file.getvalue()


FORMS = {
    "items.npy": npy,
    "items.safetensors": lambda rows: save({"embeddings": rows, "other": rows[:2, 0].copy()}),
    "items.parquet": lambda rows: parquet(id=np.arange(len(rows)), vector=list(rows)),
}


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture
def store():
    """The store of memory://, empty."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    yield memory
    memory.store.clear()


@pytest.mark.parametrize("name", FORMS)
def test_each_form_reads_from_a_store_as_from_a_file(store, rows, name):
    store.pipe(f"/lake/{name}", FORMS[name](rows))
    table = open_embeddings(f"memory://lake/{name}")
    assert (table.shape, table.dtype_name) == ((N, D), "float32")
    np.testing.assert_array_equal(table.to_array(), rows)
    np.testing.assert_array_equal(np.concatenate([b for _, b in table.batches(700)]), rows)
    picked = np.array([2999, 0, 17, 18, 17, 1500])
    np.testing.assert_array_equal(table.take(picked), rows[picked])
    assert table.take(picked[:0]).shape == (0, D)


@pytest.mark.parametrize("name", FORMS)
def test_each_form_reads_from_a_web_server(rows, name):
    pytest.importorskip("aiohttp", reason="needs aiohttp (pip install 'compressae[remote]')")
    with serving(files_over_http({f"/{name}": FORMS[name](rows)})) as url:
        table = open_embeddings(f"{url}/{name}")
        picked = np.array([2999, 0, 17])
        np.testing.assert_array_equal(table.take(picked), rows[picked])
        np.testing.assert_array_equal(table.to_array(), rows)


def test_a_folder_reads_in_natural_order(store, rows):
    for number, part in ((10, rows[1500:]), (2, rows[4:1500]), (1, rows[:4])):
        store.pipe(f"/lake/part-{number}.npy", npy(part))
    store.pipe("/lake/_SUCCESS", b"")
    table = open_embeddings("memory://lake")
    np.testing.assert_array_equal(table.to_array(), rows)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_stored_dtypes_are_kept(store, rows, dtype):
    store.pipe("/items.npy", npy(rows.astype(dtype)))
    table = open_embeddings("memory://items.npy")
    assert table.dtype_name == dtype
    np.testing.assert_array_equal(table.to_array(), rows.astype(dtype).astype(np.float32))


def test_rows_by_number_ask_for_their_own_bytes(rows):
    """Neighbours come in one request; far rows are not read along."""
    pytest.importorskip("aiohttp", reason="needs aiohttp (pip install 'compressae[remote]')")
    wide = np.repeat(rows, 64, axis=1)  # 2 KB a row.
    handler = files_over_http({"/items.npy": npy(wide)})
    with serving(handler) as url:
        table = open_embeddings(f"{url}/items.npy")
        handler.asked.clear()
        np.testing.assert_array_equal(table.take(np.array([2, 0, 1, 2500])), wide[[2, 0, 1, 2500]])
    assert sorted(last - first + 1 for first, last in handler.asked) == [2048, 3 * 2048]


@pytest.mark.parametrize("name", FORMS)
def test_opening_reads_a_header(rows, name):
    pytest.importorskip("aiohttp", reason="needs aiohttp (pip install 'compressae[remote]')")
    wide = np.repeat(rows, 64, axis=1)  # 6 MB.
    handler = files_over_http({f"/{name}": FORMS[name](wide)})
    with serving(handler) as url:
        open_embeddings(f"{url}/{name}")
    assert 0 < sum(last - first + 1 for first, last in handler.asked) < 300_000


def test_batches_of_a_large_table_stay_in_bounded_memory(store):
    """A table of 200 MB is read in batches of 1 MB, with requests of 8 MiB at most."""
    store.pipe("/large.npy", npy(np.ones((50_000, 1024), np.float32)))
    table = open_embeddings("memory://large.npy")
    tracemalloc.start()
    total = sum(float(batch.sum()) for _, batch in table.batches(256))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 50_000 * 1024 and peak < 20e6


@pytest.mark.parametrize(
    ("m", "bounds"), [(1, [0]), (4, [3, 0, 1, 2]), (3, [2999, 0, 1500]), (5, [7, 7, 7, 7, 7])]
)
def test_read_rows_equals_indexing(store, rows, m, bounds, monkeypatch):
    monkeypatch.setattr("compressae.retrieval.io.remote._REQUEST", 64)  # Two rows.
    store.pipe("/raw.bin", b"head" + rows.tobytes())
    path = RemotePath("memory://raw.bin")
    picked = np.array(bounds)
    assert len(picked) == m
    out = path.read_rows(picked, 4, D, rows.dtype)
    np.testing.assert_array_equal(out, rows[picked])
    part = path.read_rows(slice(5, 5 + m), 4, D, rows.dtype)
    np.testing.assert_array_equal(part, rows[5 : 5 + m])


# Errors: one line each.


def test_what_is_missing_is_named(store):
    store.pipe("/lake/readme.txt", b"")
    with pytest.raises(FileNotFoundError, match="memory://no.npy: no such file or folder"):
        open_embeddings("memory://no.npy")
    with pytest.raises(InputError, match=r"memory://lake: no \.npy"):
        open_embeddings("memory://lake")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://b/items.npy", "s3://b/items.npy: needs s3fs; pip install s3fs"),
        ("gs://b/items.npy", "gs://b/items.npy: needs gcsfs; pip install gcsfs"),
        ("nowhere://b/items.npy", "nowhere:// is unknown; expected s3://"),
    ],
    ids=["s3", "gs", "unknown"],
)
def test_a_missing_driver_is_named_with_its_pip_command(url, said, monkeypatch):
    for driver in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(InputError) as caught:
        open_embeddings(url)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "url", "extra"),
    [
        ("fsspec", "s3://b/items.npy", "remote"),
        ("aiohttp", "https://b/items.npy", "remote"),
        ("huggingface_hub", "hf://datasets/o/n/items.npy", "hub"),
        ("huggingface_hub", "hf://o/n", "hub"),
    ],
)
def test_a_missing_extra_is_named_with_its_pip_command(module, url, extra):
    """In a process of its own: fsspec keeps what it has imported."""
    read = "compressae.open_embeddings" if url.endswith(".npy") else "Projection.load"
    code = (
        f"import sys; sys.modules[{module!r}] = None; import compressae\n"
        "from compressae.retrieval.errors import MissingExtraError\n"
        "from compressae.retrieval.index.projection import Projection\n"
        f"try: {read}({url!r})\nexcept MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"{url} needs {module}; pip install 'compressae[{extra}]'\n", done.stderr


@pytest.mark.parametrize("status", [401, 403])
def test_no_permission_is_said_to_be_that(status):
    pytest.importorskip("aiohttp", reason="needs aiohttp (pip install 'compressae[remote]')")
    with (
        serving(files_over_http({}, status=status)) as url,
        pytest.raises(InputError, match=r"no permission to read it .*expected credentials"),
    ):
        open_embeddings(f"{url}/items.npy")


def test_a_server_without_ranges_is_refused(rows):
    pytest.importorskip("aiohttp", reason="needs aiohttp (pip install 'compressae[remote]')")
    with serving(files_over_http({"/items.npy": npy(rows)}, ranges=False)) as url:
        with pytest.raises(InputError) as caught:
            open_embeddings(f"{url}/items.npy").take(np.array([1]))
        assert "copy it first" in str(caught.value) and url in str(caught.value)


def test_damaged_files_are_named(store, rows):
    whole = npy(rows)
    for name, content, said in (
        ("cut.npy", whole[:-1], "not a whole .npy file"),
        ("no.npy", b"nothing of the kind", "not a whole .npy file"),
        ("columns.npy", npy(np.asfortranarray(rows)), "rows do not lie one after another"),
        ("cut.safetensors", FORMS["items.safetensors"](rows)[:-1], "truncated"),
        ("cut.parquet", FORMS["items.parquet"](rows)[:-1], "no whole parquet file"),
        ("texts.npy", npy(np.array(["a", "b"], object)), "Python objects"),
        ("whole.npy", npy(np.ones((3, 2), int)), "int64 numbers"),
    ):
        store.pipe(f"/{name}", content)
        with pytest.raises(InputError, match=f"memory://{name}: .*{said}"):
            open_embeddings(f"memory://{name}")


def test_rows_that_get_lost_while_they_are_read_are_noticed(store, rows):
    whole = npy(rows)
    store.pipe("/items.npy", whole)
    table = open_embeddings("memory://items.npy")
    store.pipe("/items.npy", whole[:2000])
    with pytest.raises(InputError, match=r"memory://items.npy: .* it is cut off"):
        table.to_array()


@pytest.mark.parametrize("row", [7, 2500])
def test_bad_rows_are_named(store, rows, row):
    bad = rows.copy()
    bad[row, 3] = np.nan
    store.pipe("/items.npy", npy(bad))
    with pytest.raises(InputError, match=f"memory://items.npy: row {row} holds NaN"):
        open_embeddings("memory://items.npy").check()


# Artifacts.


@pytest.fixture
def model(store, tmp_path):
    """A model, in a folder and in the store."""
    model = CompresSAE(D, 32, 4)
    model.save(tmp_path / "model")
    store.put(str(tmp_path / "model"), "/models/shoes", recursive=True)
    return model


def test_a_model_loads_from_a_url(model):
    loaded = CompresSAE.load("memory://models/shoes")
    assert loaded.model_id == model.model_id


def test_a_damaged_model_is_named(model, store):
    name = "/models/shoes/model.safetensors"
    content = store.cat(name)
    store.pipe(name, content[:-1] + b"?")
    with pytest.raises(InputError, match=r"shoes/model.safetensors: damaged"):
        CompresSAE.load("memory://models/shoes")
    store.pipe(name, content[:-1])
    with pytest.raises(InputError, match="bytes where .* were saved"):
        CompresSAE.load("memory://models/shoes")
    store.pipe(name, content + b"?")
    with pytest.raises(InputError, match=f"expected at most {len(content)}"):
        CompresSAE.load("memory://models/shoes")
    store.rm(name)
    with pytest.raises(InputError, match=r"holds no model.safetensors"):
        CompresSAE.load("memory://models/shoes")
    with pytest.raises(InputError, match=r"memory://models: holds no config.json"):
        CompresSAE.load("memory://models")
    with pytest.raises(InputError, match="is model; expected codes"):
        PackedCodes.load("memory://models/shoes")


@pytest.mark.parametrize(
    "write",
    [
        lambda url: save_artifact(url, "codes", {}, {}),
        lambda url: CompresSAE(D, 32, 4).save(url),
        lambda url: Catalogue.create(url, None, np.eye(3)),
    ],
    ids=["artifact", "model", "catalogue"],
)
def test_nothing_is_written_to_a_url(store, write):
    with pytest.raises(InputError, match=r"memory://out: .* expected a local path"):
        write("memory://out")
    assert not store.exists("/out")


def test_a_catalogue_is_opened_from_a_local_folder():
    with pytest.raises(InputError, match="s3://b/index: an index is mapped into memory"):
        Catalogue.open("s3://b/index")


# The command line.


def test_commands_take_urls(model, store, rows, tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow (pip install 'compressae[parquet]')")
    names = [f"s{i}" for i in range(N)]
    store.pipe("/lake/items.parquet", parquet(sku=names, vector=list(rows), price=np.arange(N)))
    store.pipe("/lake/queries.npy", npy(rows[:3]))
    np.save(tmp_path / "items.npy", rows)
    succeed(
        *("index", "memory://lake/items.parquet", "-m", "memory://models/shoes"),
        *("-o", tmp_path / "far", "--id-column", "sku", "--metadata-columns", "price"),
    )
    succeed("index", tmp_path / "items.npy", "-m", tmp_path / "model", "-o", tmp_path / "near")
    far, near = Catalogue.open(tmp_path / "far"), Catalogue.open(tmp_path / "near")
    hits, expected = (c.search(rows[:3], 5, candidates="all") for c in (far, near))
    assert hits.ids.tolist() == [[f"s{i}" for i in row] for row in expected.ids.tolist()]
    assert "s0 " in succeed("search", tmp_path / "far", "memory://lake/queries.npy")
    assert '"dim": 8' in succeed("info", "memory://lake/queries.npy", "--json")
    assert "model" in succeed("info", "memory://models/shoes")
    assert as_table("memory://lake/items.parquet", N).num_rows == N


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "memory://a.npy", "-o", "s3://b/model"), "s3://b/model: expected a local path"),
        (("search", "s3://b/index", "q.npy"), "s3://b/index: expected a local path"),
        (("info", "memory://none.npy"), "memory://none.npy: no such file or folder"),
        (("info", "nowhere://x"), "nowhere:// is unknown"),
    ],
    ids=["output", "index", "missing", "unknown"],
)
def test_commands_refuse_in_one_line(store, tmp_path, arguments, said):
    refused(tmp_path, said, *arguments)


def test_a_path_with_a_colon_stays_a_path(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a:b.npy", rows)
    code, out, _ = call("info", "a:b.npy")
    assert code == 0 and str(N) in out

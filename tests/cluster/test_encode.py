"""Encoding in shards: the bytes of one go, resumed, and no manifest while something is missing."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from cluster_files import data_of
from dying import always_dies, dies_once
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressae import InputError, compress, fit_quantizer
from compressae.cluster.encode import encode_shards, encode_unit
from compressae.cluster.pool import Pool
from compressae.cluster.units import plan_units
from compressae.retrieval.store.shards import MANIFEST, merge_shards, read_manifest


@given(cuts=st.lists(st.integers(1, 699), max_size=6), threads=st.integers(1, 3))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_codes_are_the_same_bytes_for_any_partition(made, cuts, threads):
    bounds = sorted({0, *cuts, len(made.rows)})
    parts = [
        compress(made.model, made.rows[a:b], like=made.quantizer, threads=threads)
        for a, b in pairwise(bounds)
    ]
    assert np.array_equal(parts[0].join(parts[1:]).data, made.codes.data)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_budget_is_the_same_bytes_for_any_partition(made, similarity):
    rows = made.rows * np.linspace(0.2, 3, len(made.rows), dtype=np.float32)[:, None]
    quantizer = fit_quantizer(made.model, rows, budget="9 B/row", similarity=similarity)
    whole = compress(made.model, rows, like=quantizer)
    assert len(set(whole.nonzeros.tolist())) > 1
    assert abs(whole.nbytes / len(rows) - 9) < 1
    parts = [compress(made.model, rows[a:b], like=quantizer) for a, b in ((0, 5), (5, 700))]
    joined = parts[0].join(parts[1:])
    assert np.array_equal(joined.data, whole.data) and np.array_equal(joined.counts, whole.counts)


@pytest.mark.parametrize("rows", [100, 250, 1000])
def test_shards_join_to_the_codes_of_one_go(made, job, rows):
    manifest = encode_shards(job, made.items, rows=rows)
    assert manifest.rows == len(made.rows) and manifest.ids == "row numbers"
    codes, ids = merge_shards(made.folder / job.output)
    assert np.array_equal(codes.data, made.codes.data)
    assert np.array_equal(ids, np.arange(len(made.rows)))


def test_a_done_shard_is_not_made_again(made, job, tmp_path):
    encode_shards(job, made.items, rows=200)
    before, folder = data_of(tmp_path / "coded"), tmp_path / "coded"
    (folder / MANIFEST).unlink()
    (folder / "part-00001.json").unlink()
    (folder / "part-00002" / "config.json").write_text("{}")
    (folder / "part-00003" / "config.json").touch()
    done = []

    class Noting:
        def run(self, job, units):
            done.extend(unit.name for unit in units)
            return (encode_unit(job, unit) for unit in units)

    encode_shards(job, made.items, Noting(), rows=200)
    assert done == ["part-00001", "part-00002"]
    assert data_of(folder) == before


def test_a_changed_source_is_coded_again(made, job, tmp_path):
    np.save(tmp_path / "items.npy", made.rows[:50])
    encode_shards(job, tmp_path / "items.npy")
    np.save(tmp_path / "items.npy", made.rows[50:100])
    encode_shards(job, tmp_path / "items.npy")
    assert np.array_equal(
        merge_shards(tmp_path / "coded")[0].data[:-4], made.codes.take(np.arange(50, 100)).data[:-4]
    )


def test_a_table_that_has_fewer_files_leaves_no_older_shards(made, job, tmp_path):
    np.save(tmp_path / "items.npy", made.rows[:50])
    encode_shards(job, tmp_path / "items.npy", rows=20)
    encode_shards(job, tmp_path / "items.npy")
    names = {path.name for path in (tmp_path / "coded").iterdir()}
    assert names == {"part-00000", "part-00000.json", "manifest.json", "job.sha256"}


def test_a_quantiser_that_was_fitted_again_is_loaded_again(made, job, tmp_path):
    """Row lengths too: the rows that compile the kernels are no longer than the table's."""
    job = replace(job, quantizer=str(tmp_path / "own"))
    for longest in (0.1, 5):
        rows = made.rows * longest / np.linalg.norm(made.rows, axis=1).max()
        quantizer = fit_quantizer(made.model, rows, residual_bytes=2, similarity="dot")
        quantizer.save(tmp_path / "own")
        np.save(tmp_path / "items.npy", rows)
        encode_shards(job, tmp_path / "items.npy", rows=300, overwrite=True)
        expected = compress(made.model, rows, like=quantizer)
        assert np.array_equal(merge_shards(tmp_path / "coded")[0].data, expected.data)


def test_a_bad_row_fails_its_shard_alone(made, job, tmp_path):
    folder = tmp_path / "items"
    folder.mkdir()
    bad = made.rows[:60].copy()
    bad[33, 2] = np.nan
    np.save(folder / "0.npy", made.rows[:50])
    np.save(folder / "1.npy", bad)
    np.save(folder / "2.npy", made.rows[50:90])
    with pytest.raises(InputError, match="1 of 3 shards failed.*1.npy: row 33 holds NaN") as error:
        encode_shards(job, folder)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "coded" / MANIFEST).exists()
    with pytest.raises(InputError, match="no manifest.json: not all shards are made"):
        read_manifest(tmp_path / "coded")
    np.save(folder / "1.npy", made.rows[:60])
    assert encode_shards(job, folder).rows == 150


def test_other_shards_and_files_are_left(made, job, tmp_path):
    encode_shards(job, made.items)
    other = replace(job, beam=2)
    with pytest.raises(InputError, match="shards of another table, model, quantiser or column"):
        encode_shards(other, made.items)
    encode_shards(other, made.items, overwrite=True)
    (tmp_path / "coded" / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="holds note.txt, which is no shard"):
        encode_shards(other, made.items, overwrite=True)
    assert (tmp_path / "coded" / "note.txt").read_text() == "mine"


def test_a_quantiser_of_another_model_is_refused(made, job, tmp_path):
    from compressae import CompresSAE

    CompresSAE(12, 64, 4, seed=2).save(tmp_path / "other")
    with pytest.raises(InputError, match="give codes of the same model"):
        encode_shards(replace(job, model=str(tmp_path / "other")), made.items)


def test_codes_of_a_budget_are_no_quantiser(made, job, tmp_path):
    compress(made.model, made.rows, budget="9 B/row").save(tmp_path / "ragged")
    with pytest.raises(InputError, match="codes of a budget.*fit-quantizer --budget"):
        encode_shards(replace(job, quantizer=str(tmp_path / "ragged")), made.items)


def test_processes_give_the_same_bytes_though_one_dies(made, job, tmp_path):
    encode_shards(job, made.items, rows=300)
    alone = data_of(tmp_path / "coded")
    again = replace(job, output=str(tmp_path / "pool"))
    encode_shards(again, made.items, Pool(2, dies_once), rows=300)
    assert (tmp_path / "died").exists()
    assert data_of(tmp_path / "pool") == alone


def test_workers_that_always_die_end_the_job(made, job):
    with pytest.raises(InputError, match="worker processes died 3 times"):
        list(Pool(1, always_dies).run(job, plan_units(made.items)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file | {"format": 2}, "format 2; expected 1"),
        (lambda file: file | {"sha256": "0" * 64}, "its checksum differs"),
        (lambda file: [file], "damaged or not of compressae"),
        (lambda file: file | {"content": {}}, "its checksum differs"),
    ],
)
def test_a_damaged_manifest_is_refused(made, job, tmp_path, change, said):
    encode_shards(job, made.items)
    path = tmp_path / "coded" / MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=said):
        merge_shards(tmp_path / "coded")


def test_another_shard_in_the_place_of_one_is_refused(made, job, tmp_path):
    encode_shards(job, made.items, rows=290)
    folder = tmp_path / "coded"
    (folder / "part-00000").rename(folder / "x")
    (folder / "part-00002").rename(folder / "part-00000")
    with pytest.raises(InputError, match="another shard than manifest.json names"):
        merge_shards(folder)


def test_a_table_behind_a_url_is_coded_in_shards(made, job, tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec (pip install 'compressae[remote]')")
    store = fsspec.filesystem("memory")
    for path in made.items.iterdir():
        store.pipe(f"/sharded/{path.name}", path.read_bytes())
    manifest = encode_shards(job, "memory://sharded", rows=300)
    assert manifest.shards[0].source.startswith("memory://sharded/")
    assert np.array_equal(merge_shards(tmp_path / "coded")[0].data, made.codes.data)


@pytest.mark.parametrize("runner", [None, Pool(2)], ids=["alone", "processes"])
def test_a_finished_job_is_left_as_it_is(made, job, tmp_path, runner):
    encode_shards(job, made.items)
    before = data_of(tmp_path / "coded")
    encode_shards(job, made.items, runner)
    assert data_of(tmp_path / "coded") == before


def test_what_a_killed_writer_left_is_no_obstacle(made, job, tmp_path):
    encode_shards(job, made.items)
    before = data_of(tmp_path / "coded")
    (tmp_path / "coded" / ".part-00001.tmp-0123456789ab").mkdir()
    (tmp_path / "coded" / ".manifest.json.tmp-0123456789ab").touch()
    encode_shards(job, made.items)
    assert data_of(tmp_path / "coded") == before


def test_another_tables_shards_are_not_replaced_unasked(made, job, tmp_path):
    encode_shards(job, made.items)
    before = data_of(tmp_path / "coded")
    np.save(tmp_path / "other.npy", made.rows[:9])
    with pytest.raises(InputError, match="shards of another table"):
        encode_shards(job, tmp_path / "other.npy")
    assert data_of(tmp_path / "coded") == before


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_shard_without_its_data_is_made_again(made, job, tmp_path, damage):
    encode_shards(job, made.items)
    before = data_of(tmp_path / "coded")
    path = tmp_path / "coded" / "part-00000" / "packed.safetensors"
    raw = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(raw[:-9] if damage == "cut" else raw[:-9] + bytes(9))
    encode_shards(job, made.items)
    assert data_of(tmp_path / "coded") == before


def test_a_link_in_place_of_a_shard_is_refused(made, job, tmp_path):
    encode_shards(job, made.items)
    shard = tmp_path / "coded" / "part-00001"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="holds part-00001, which is no shard"):
        encode_shards(job, made.items)
    assert (tmp_path / "elsewhere" / "config.json").exists()


@pytest.mark.parametrize("rows", [50, 20], ids=["replaced", "shortened"])
def test_a_file_that_changes_during_the_job_fails_its_shard(made, job, tmp_path, rows):
    np.save(tmp_path / "items.npy", made.rows[:50])

    class Changing:
        def run(self, job, units):
            np.save(tmp_path / "items.npy", made.rows[100 : 100 + rows])
            return [encode_unit(job, unit) for unit in units]

    with pytest.raises(InputError, match="items.npy: changed since the job began"):
        encode_shards(job, tmp_path / "items.npy", Changing())
    assert not (tmp_path / "coded" / MANIFEST).exists()


def test_many_failures_are_counted(made, job, tmp_path):
    np.save(tmp_path / "items.npy", np.full((30, 12), np.nan, np.float32))
    with pytest.raises(InputError, match="30 of 30 shards failed: .*; and 10 more; the others"):
        encode_shards(job, tmp_path / "items.npy", rows=1)


def test_ids_need_their_column_in_every_file(made, job):
    with pytest.raises(InputError, match="0.npy: no column 'sku'; expected ids in each .parquet"):
        encode_shards(replace(job, id_column="sku"), made.items)


def test_a_quantiser_that_does_not_fit_its_model_is_refused(made, tmp_path):
    from compressae import CompresSAE

    small = CompresSAE(2, 64, 4, seed=1)
    forged = fit_quantizer(small, made.rows[:, :2], residual_bytes=1)
    forged = replace(forged, model_id=made.model.model_id)
    with pytest.raises(InputError, match="a quantiser of 2 dimensions, .* does not fit a model of"):
        compress(made.model, made.rows, like=forged)
    cosine = replace(made.quantizer, settings=made.quantizer.settings | {"similarity": "dot"})
    with pytest.raises(InputError, match="for similarity 'dot' does not fit"):
        compress(made.model, made.rows, like=cosine)

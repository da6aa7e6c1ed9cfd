import json

import numpy as np
import pytest
from click.testing import CliRunner
from code_forms import make_codes
from commands import refused, succeed

from compressae import CompresSAE, InputError, TrainConfig, choose_form, compress, train
from compressae.cli import main
from compressae.coding.plan import _size, fitting, plan
from compressae.kernels.packed import SPARE
from compressae.kernels.product import IntMatrix, round_directions
from compressae.retrieval import Catalogue, CompressedIndex, Projection, exact_search, recall_at
from compressae.retrieval.codes.packed import PackedCodes
from compressae.retrieval.codes.size import row_lengths, value_bits

D = 16


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, D))
    rows = centres[rng.integers(0, 200, 2400)] + 0.5 * rng.standard_normal((2400, D))
    return rows.astype(np.float32)


def of_four_bits(model):
    """The model with its decoder as training leaves it."""
    rows = IntMatrix.of_entries(round_directions(model.decoder.detach().numpy()))
    return CompresSAE.from_projection(
        Projection(rows, None, None, model.nonzeros, {"decoder_bits": 4})
    )


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("latents", [64, 100])
def test_a_plan_takes_what_its_index_takes(table, latents, lists):
    table = table[:600]
    n = len(table)
    for one in fitting(n, D, "150 B/row", [latents], ["int2", "int4"], lists=lists):
        model = of_four_bits(CompresSAE(D, latents, one.nonzeros))
        codes = make_codes(model, table, one.value_type, residual_bytes=one.residual_bytes)
        index = CompressedIndex(model.projection, codes)
        assert isinstance(codes, PackedCodes)
        held = codes.nbytes + (index.list_nbytes if lists else 0)
        # Levels are planned for as if each rank had all 256.
        spare = 4 * 256 * one.nonzeros - codes.quantizer.levels.nbytes
        assert codes.nbytes == one.code_bytes * n + SPARE
        assert one.total_bytes == held + index.constant_nbytes + spare and spare >= 0
        assert one.held_bytes == pytest.approx((held - SPARE) / n)


@pytest.mark.parametrize("memory", ["40 B/row", "55 B/row", "3 MB", 10_000_000])
@pytest.mark.parametrize("lists", [True, False])
def test_plans_fill_the_memory_and_never_exceed_it(memory, lists):
    items, dim = 50_000, 96
    total = {"40 B/row": 2 * 10**6, "55 B/row": 2_750_000, "3 MB": 3_000_000}.get(memory, memory)
    plans = fitting(items, dim, memory, [256, 1000], lists=lists)
    assert {one.latents for one in plans} == {256, 1000}
    for one in plans:
        assert one.total_bytes <= total
        if one.residual_bytes < dim:  # One byte more a row, and its centroids, do not fit.
            assert one.total_bytes + items + 4 * 512 * dim > total


def test_the_cost_of_a_residual_byte_jumps_and_the_most_that_fit_are_found():
    """At d = 100, 13 bytes take 8 dimensions each (104), and 25 take 4 each (100)."""
    one = fitting(1000, 100, 400_000, [64], nonzeros=[4])[0]
    for m in range(one.residual_bytes + 1, 101):
        assert _size(1000, 100, 64, 4, 2, m, True)[2] > 400_000
    assert one.total_bytes <= 400_000


def test_any_number_of_nonzeros_can_be_asked_for():
    assert fitting(1000, 64, "1 GB", [4096], nonzeros=[100])[0].nonzeros == 100


def test_what_does_not_fit_is_refused_with_the_least_that_does():
    with pytest.raises(InputError, match="the smallest index takes ([0-9,]+); give more") as error:
        fitting(1000, 32, 5000, [64])
    least = int(str(error.value).split("takes ")[1].split(";")[0].replace(",", ""))
    assert fitting(1000, 32, least, [64])[0].nonzeros == 1
    with pytest.raises(InputError, match="give more"):
        fitting(1000, 32, least - 1, [64])
    with pytest.raises(InputError, match="packed codes name at most 131072"):
        fitting(10**9, 32, "9 GB", [1 << 18])
    with pytest.raises(InputError, match="expected bytes above 0"):
        fitting(1000, 32, "plenty")


def test_plans_are_measured_and_the_best_comes_first(table):
    seen = []
    plans = plan(table, 240_000, "40 B/row", [64, 128], progress=lambda *now: seen.append(now[:2]))
    assert seen == [(i, seen[-1][1]) for i in range(len(seen))]
    expected = [one.expected for one in plans]
    assert expected == sorted(expected, reverse=True) and expected[0] > expected[-1]
    assert all(0.3 < one.recall < 1 for one in plans)
    for one in plans:
        assert 0 <= one.expected < one.recall  # A hundred times the rows are harder.
    tried = {(one.latents, one.nonzeros) for one in plans if one.value_type == "int4"}
    best = next(one for one in plans if one.value_type == "int2")
    assert tried <= {(best.latents, best.nonzeros)}
    assert {one.latent_dropout for one in plans} == {0.0}  # 12 trained rows a latent and more.
    same = plan(table, 2160, "40 B/row", [64], lists=False)
    assert all(one.expected == one.recall for one in same)  # As many rows as were measured.


def test_a_plan_of_a_table_that_training_does_not_see_expects_less(tmp_path):
    """Rows without structure: all that 512 latents know of 2,160 of them is memorised."""
    rows = np.random.default_rng(0).standard_normal((2400, 48)).astype(np.float32)
    settings = {"memory": "17 B/row", "latents": [512], "lists": False}
    seen, unseen = (plan(rows, items, **settings) for items in (4800, 4801))
    assert {one.latent_dropout for one in seen} == {0.0}
    assert {one.latent_dropout for one in unseen} == {0.15}
    assert seen[0].expected - unseen[0].expected > 0.05
    np.save(tmp_path / "rows.npy", rows)
    size = ["--memory", "17B/row", "--latents", "512", "--codes-only"]
    for items, has_dropout in ((4800, False), (4801, True)):
        code, out, err = call(tmp_path / "rows.npy", *size, "--items", items)
        assert code == 0 and ("--nonzeros 8 --latent-dropout 0.15\n" in out) == has_dropout, err


def test_small_samples_are_refused(table):
    with pytest.raises(InputError, match="1999 rows; a plan needs at least 2,000"):
        plan(table[:1999], 10**6, "40 B/row")


def call(*arguments):
    done = CliRunner().invoke(main, ["plan", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_the_command(table, tmp_path):
    np.save(tmp_path / "table.npy", table)
    size = ["--items", "1e6", "--memory", "70B/row", "--latents", "64"]
    code, out, _ = call(*size, "--dim", 16)
    assert code == 0 and "Nothing was measured" in out and "recall@100" in out
    code, out, _ = call(tmp_path / "table.npy", *size)
    assert code == 0 and "compressae train" in out
    options = out.splitlines()[-1].split("-o index ")[1].split()
    code, out, _ = call(tmp_path / "table.npy", *size, "--json")
    top = json.loads(out)[0]
    assert code == 0 and top["recall"] > 0.3
    assert options[:4] == ["--values", top["value_type"], "--nonzeros", str(top["nonzeros"])]
    for wrong, said in [
        (["--items", "0.5", "--memory", "1GB", "--dim", 4], "a whole number of at least 1"),
        (["--items", "10", "--memory", "1GB"], "give --dim, or EMBEDDINGS"),
        (["--items", "10", "--memory", "1GB", "--dim", 4, "--latents", "a"], "comma apart"),
        (["--items", "1e6", "--memory", "9", "--dim", 4], "the smallest index takes"),
        ([tmp_path / "table.npy", *size, "--dim", 15], "has 16 columns"),
        ([tmp_path / "no.npy", *size], "no such file"),
        (["--items", "inf", "--memory", "1GB", "--dim", 4], "a whole number of at least 1"),
    ]:
        code, out, err = call(*wrong)
        assert code in (1, 2) and out == "" and said in err and "Traceback" not in err


@pytest.fixture(scope="module")
def model(table):
    return train(table, TrainConfig(latents=128, nonzeros=6, steps=6))


@pytest.mark.parametrize("size", [6, 12, 18])
def test_a_form_fits_its_bytes_and_is_about_the_best(table, model, size):
    form = choose_form(model, table, size)
    lengths = row_lengths(128, value_bits(form["value_type"]), form["residual_bytes"], 64)
    assert lengths[form["nonzeros"]] <= size
    held, rest = np.split(np.random.default_rng(0).permutation(len(table)), [200])
    truth = exact_search(table[rest], table[held], 100).ids

    def recall(form):
        index = CompressedIndex(model.projection, compress(model, table[rest], **form))
        return recall_at(index.search(table[held], 100, candidates="all").ids, truth, 100)

    others = [
        {"nonzeros": k, "residual_bytes": size - lengths_of(k)}
        for k in (1, 2, 4, 6, 8)
        if 0 <= size - lengths_of(k) <= D
    ]
    assert recall(form) > max(map(recall, others)) - 0.02


def lengths_of(k):
    return int(row_lengths(128, 2, 0, 64)[k])


def test_a_form_for_queries_of_their_own(table, model):
    users = table[:300] * np.linspace(0.1, 3, D, dtype=np.float32)
    form = choose_form(model, table, 14, users, "dot")
    codes = compress(model, table, similarity="dot", queries=users, **form)
    assert codes.nbytes <= 14 * len(table) + SPARE


def test_a_form_of_too_little_is_refused(table, model):
    with pytest.raises(InputError, match="2 bytes a row: 1 nonzeros take 3; give more"):
        choose_form(model, table, 2)
    with pytest.raises(InputError, match="500 rows; a choice needs at least 2,000"):
        choose_form(model, table[:500], 20)
    with pytest.raises(InputError, match="1 queries; expected at least 2"):
        choose_form(model, table, 20, table[:1])
    with pytest.raises(InputError, match="rows of 15 columns"):
        choose_form(model, table[:, :15].copy(), 20)


def test_an_index_of_a_size(table, model, tmp_path):
    model.save(tmp_path / "model")
    np.save(tmp_path / "items.npy", table)
    made = ("index", tmp_path / "items.npy", "-m", tmp_path / "model", "-o", tmp_path / "index")
    refused(tmp_path, "--bytes chooses values", *made, "--bytes", 12, "--nonzeros", 4)
    succeed(*made, "--bytes", 12)
    codes = Catalogue.open(tmp_path / "index").like
    assert codes.nbytes / len(codes) <= 12.1
    form = choose_form(model, table, 12)
    assert codes.residual_bytes == form["residual_bytes"]
    assert codes.settings["nonzeros"] == form["nonzeros"]

"""FittedQuantizer: saved and loaded, refused where it is damaged, of the model that made it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from compressae import CompresSAE, InputError, compress, fit_quantizer
from compressae.retrieval.codes import FittedQuantizer, load_like
from compressae.retrieval.codes.quantizer import RowQuantizer

N, D, H = 400, 10, 64


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return CompresSAE(D, H, 4, seed=1)


@pytest.mark.parametrize("form", [{"residual_bytes": 3}, {"budget": "8 B/row"}, {"beam": 3}])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_saved_one_codes_alike(model, table, tmp_path, form, similarity):
    fitted = fit_quantizer(model, table, similarity=similarity, **form)
    fitted.save(tmp_path / "quantizer")
    again = FittedQuantizer.load(tmp_path / "quantizer")
    assert again.checksum == fitted.checksum and again.similarity == similarity
    assert (again.settings, again.least_benefit) == (fitted.settings, fitted.least_benefit)
    codes = [compress(model, table[:50], like=like) for like in (fitted, again)]
    assert np.array_equal(codes[0].data, codes[1].data)
    assert codes[0].settings == fitted.settings


def eights(name, shape):
    """An array in 8 bits of another shape, and a step for each first place."""
    steps = np.ones(shape[:1], np.float32)
    return {f"{name}_8_bits": np.ones(shape, np.int8), f"{name}_steps": steps}


@pytest.fixture(scope="module")
def quantizer(model, table):
    return fit_quantizer(model, table, residual_bytes=2).quantizer


def test_residual_arrays_lie_in_files_in_8_bits(quantizer):
    stored = quantizer.stored_arrays()
    for name, axes in (("restore", (0,)), ("codebooks", (1, 2))):
        numbers, steps = stored[f"{name}_8_bits"], stored[f"{name}_steps"]
        assert name not in stored and numbers.dtype == np.int8 and steps.dtype == np.float32
        assert (np.abs(numbers).max(axes) == 127).all()
    again = RowQuantizer.from_arrays(quantizer.latents, stored)
    for name, array in quantizer.arrays().items():
        assert array.tobytes() == again.arrays()[name].tobytes()  # No −0 that became 0, either.


@pytest.mark.parametrize("name", ["restore", "codebooks"])
@pytest.mark.parametrize("other", [0.3, -0.0])
def test_arrays_that_8_bits_do_not_hold_lie_in_files_as_they_are(quantizer, name, other):
    array = getattr(quantizer, name).copy()
    array.flat[np.abs(array).argmin()] = other * np.abs(array).max() / 127
    kept = replace(quantizer, **{name: array})
    stored = kept.stored_arrays()
    assert stored[name].dtype == np.float32 and f"{name}_8_bits" not in stored
    again = RowQuantizer.from_arrays(kept.latents, stored)
    assert getattr(again, name).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda a: a | {"codebooks_steps": a["codebooks_steps"][:1]},
            "and float32 steps of shape",
        ),
        (
            lambda a: a | {"codebooks_steps": a["codebooks_steps"][:, None]},
            "and float32 steps of shape",
        ),
        (lambda a: a | {"restore_steps": a["restore_steps"].astype(float)}, "in float64 steps"),
        (lambda a: a | {"restore_8_bits": a["restore_8_bits"].astype(np.int16)}, "in int16"),
        (
            lambda a: a | {"restore_8_bits": a["restore_8_bits"].ravel()},
            "and float32 steps of shape",
        ),
        (lambda a: a | {"restore": np.zeros((D, D), np.float32)}, "encode the table again"),
        (lambda a: {n: v for n, v in a.items() if n != "restore_steps"}, "encode the table again"),
        (lambda a: a | eights("codebooks", ()), "expected int8 of 3 axes"),
        (lambda a: a | eights("codebooks", (6000,)), "expected int8 of 3 axes"),
        (lambda a: a | eights("codebooks", (2, 256)), "expected int8 of 3 axes"),
        (lambda a: a | {"codebooks_steps": np.full_like(a["codebooks_steps"], 1e38)}, "infinity"),
        (lambda a: a | {"codebooks_steps": a["codebooks_steps"] * np.float32("nan")}, "NaN or"),
    ],
)
def test_8_bits_of_a_file_are_not_trusted(quantizer, change, said):
    arrays = change(quantizer.stored_arrays())
    with pytest.raises(InputError, match=said):
        RowQuantizer.from_arrays(quantizer.latents, arrays)


def test_it_is_that_of_compress(model, table):
    codes = compress(model, table, residual_bytes=3)
    fitted = fit_quantizer(model, table, residual_bytes=3)
    assert codes.fitted.checksum == fitted.checksum
    assert np.array_equal(compress(model, table, like=fitted).data, codes.data)


def test_either_kind_is_opened(model, table, tmp_path):
    fit_quantizer(model, table).save(tmp_path / "quantizer")
    compress(model, table).save(tmp_path / "codes")
    assert isinstance(load_like(tmp_path / "quantizer"), FittedQuantizer)
    assert load_like(tmp_path / "codes").counts is None
    with pytest.raises(InputError, match="is quantizer; expected codes"):
        from compressae.retrieval import load_codes

        load_codes(tmp_path / "quantizer")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"least_benefit": -1.0}, "least benefit -1.0; expected 0 or more"),
        ({"longest": 0.0}, "longest row of 0.0; expected more than 0"),
        ({"longest": float("inf")}, "Infinity is no number"),
        ({"latents": "many"}, "fit the quantiser again"),
        ({"made": {"similarity": "cubic"}}, "similarity 'cubic'"),
    ],
)
def test_settings_of_a_file_are_not_trusted(model, table, tmp_path, change, said):
    from compressae.retrieval.io.artifacts import load_artifact, save_artifact

    fit_quantizer(model, table).save(tmp_path / "quantizer")
    whole = load_artifact(tmp_path / "quantizer", "quantizer")
    tensors = {stem: dict(arrays) for stem, arrays in whole.tensors.items()}
    save_artifact(tmp_path / "forged", "quantizer", whole.settings | change, tensors)
    with pytest.raises(InputError, match=said):
        FittedQuantizer.load(tmp_path / "forged")


def test_a_file_of_no_quantiser_is_refused(model, table, tmp_path):
    fit_quantizer(model, table).save(tmp_path / "quantizer")
    config = tmp_path / "quantizer" / "config.json"
    config.write_text(json.dumps({"kind": "quantizer"}))
    with pytest.raises(InputError, match="damaged or not of compressae"):
        FittedQuantizer.load(tmp_path / "quantizer")


def test_another_models_is_refused(model, table):
    fitted = fit_quantizer(model, table)
    with pytest.raises(InputError, match="give codes of the same model"):
        compress(CompresSAE(D, H, 4, seed=2), table, like=fitted)


@pytest.mark.parametrize(
    "own", [{"nonzeros": 3}, {"value_type": "int4"}, {"residual_bytes": 2}, {"similarity": "dot"}]
)
def test_its_own_settings_stand(model, table, own):
    with pytest.raises(InputError, match="beside a quantiser to share"):
        compress(model, table, like=fit_quantizer(model, table), **own)

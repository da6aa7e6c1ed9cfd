import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from compressae import CompresSAE, InputError, TrainConfig, model_ops, train
from compressae.retrieval import Projection
from compressae.retrieval.io.artifacts import save_artifact


def dense_equivalent(model, x, k):
    """The paper's formulas with dense products: s (n, h) and x̂ (n, d)."""
    x = torch.nn.functional.normalize(x)
    pre = x @ model.encoder.T + model.encoder_bias
    keep = torch.zeros_like(pre).scatter(1, pre.abs().topk(k, dim=1).indices, 1.0)
    s = pre * keep
    return s, s @ model.decoder


@pytest.fixture
def model():
    made = CompresSAE(dim=12, latents=65, nonzeros=5, seed=3)
    with torch.no_grad():
        made.encoder_bias.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return made


@pytest.fixture
def x():
    return torch.randn(17, 12, generator=torch.Generator().manual_seed(2)) * 3


def test_forward_is_the_dense_formula_at_k_and_4k(model, x):
    output = model(x)
    for k, got in ((5, output.reconstruction), (20, output.wide_reconstruction)):
        s, expected = dense_equivalent(model, x, k)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
        code = torch.zeros_like(s).scatter(1, output.indices[:, :k].long(), output.values[:, :k])
        torch.testing.assert_close(code, s, atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_the_dense_formula(model, x):
    output = model(x)
    loss = (
        2
        - torch.cosine_similarity(x, output.reconstruction).mean()
        - torch.cosine_similarity(x, output.wide_reconstruction).mean() / 8
    )
    sparse = torch.autograd.grad(loss, list(model.parameters()))
    _, near = dense_equivalent(model, x, 5)
    _, far = dense_equivalent(model, x, 20)
    loss = 2 - torch.cosine_similarity(x, near).mean() - torch.cosine_similarity(x, far).mean() / 8
    dense = torch.autograd.grad(loss, list(model.parameters()))
    for a, b in zip(sparse, dense, strict=True):
        assert b.abs().max() > 1e-5
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)


def test_decode_passes_gradcheck_in_double():
    indices = torch.tensor([[0, 3], [3, 1]], dtype=torch.int32)
    values = torch.randn(2, 2, dtype=torch.double, requires_grad=True)
    weights = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, w: model_ops.decode(indices, v, w), (values, weights))


def test_encoding_ignores_the_length_of_rows(model, x):
    ids, values = model.encode(x)
    again_ids, again = model.encode(x * 1e4)
    torch.testing.assert_close(values, again, atol=1e-5, rtol=1e-4)
    assert torch.equal(ids, again_ids)
    assert (values.abs().diff(dim=1) <= 0).all()


def test_the_first_nonzeros_of_a_wide_code_are_the_narrow_code(model, x):
    wide_ids, wide = model.encode(x, 20)
    ids, values = model.encode(x, 5)
    assert torch.equal(wide_ids[:, :5], ids)
    assert torch.equal(wide[:, :5], values)


def test_4k_stops_at_the_number_of_latents(x):
    output = CompresSAE(dim=12, latents=7, nonzeros=3)(x)
    assert output.indices.shape == (17, 7)
    full = CompresSAE(dim=12, latents=3, nonzeros=3)(x)
    assert torch.equal(full.reconstruction, full.wide_reconstruction)


def test_decoder_rows_are_unit_and_the_projected_gradient_is_across_them(model, x):
    model.normalize_decoder()
    torch.testing.assert_close(model.decoder.norm(dim=1), torch.ones(65))
    model(x).reconstruction.pow(2).sum().backward()
    assert (model.decoder.grad * model.decoder).sum(1).abs().max() > 1e-3
    model.project_decoder_gradient()
    assert (model.decoder.grad * model.decoder).sum(1).abs().max() < 1e-5


def test_save_and_load_give_the_same_model(model, x, tmp_path):
    model.settings = {"recipe": "paper", "seed": 3}
    model.save(tmp_path / "model")
    loaded = CompresSAE.load(tmp_path / "model")
    assert loaded.settings == model.settings
    assert loaded.model_id == model.model_id
    assert torch.equal(loaded.encode(x)[1], model.encode(x)[1])
    with torch.no_grad():
        loaded.decoder[0, 0] += 1e-3
    assert loaded.model_id != model.model_id


def test_weights_with_nan_are_refused(model, tmp_path):
    with torch.no_grad():
        model.encoder[3, 1] = float("nan")
    model.save(tmp_path / "model")
    with pytest.raises(InputError, match="encoder holds NaN"):
        CompresSAE.load(tmp_path / "model")


def trained(decoder_bits=None):
    rows = np.random.default_rng(0).standard_normal((300, 10)).astype(np.float32)
    config = TrainConfig(latents=40, nonzeros=3, steps=4, batch=64, decoder_bits=decoder_bits)
    return train(rows, config, device="cpu")


def test_a_trained_decoder_is_saved_in_four_bits(tmp_path):
    model = trained()
    model.save(tmp_path / "model")
    (tensors,) = (load_file(file) for file in tmp_path.glob("model/*.safetensors"))
    assert {name: array.shape for name, array in tensors.items()} == {"decoder_4_bits": (40, 32)}
    loaded = CompresSAE.load(tmp_path / "model")
    for name, weights in model.named_parameters():
        assert torch.equal(getattr(loaded, name), weights), name
    assert loaded.model_id == model.model_id == Projection.load(tmp_path / "model").model_id


def test_a_trained_decoder_is_left_as_it_is_where_asked():
    model, rounded = trained(32), trained(4)
    assert set(model.projection.arrays()) == {"decoder", "encoder", "encoder_bias"}
    cosines = (model.decoder * rounded.decoder).sum(1)
    assert 0.97 < cosines.min() < 0.9999


@pytest.mark.parametrize("name", ["decoder", "encoder", "encoder_bias"])
def test_a_changed_weight_is_no_longer_in_four_bits(name):
    model = trained()
    before = model.model_id
    with torch.no_grad():
        getattr(model, name).view(-1)[0] += 1e-3
    assert set(model.projection.arrays()) == {"decoder", "encoder", "encoder_bias"}
    assert model.model_id != before
    again = CompresSAE.from_projection(model.projection)
    assert again.model_id == model.model_id


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: rows[:, :31], "uint8 rows"),
        (lambda rows: rows[:-1], "weights"),
        (lambda rows: rows & 0xF0, "numbers of 4 bits that are 0"),
    ],
    ids=["narrow", "short", "zeros"],
)
def test_damaged_rows_of_four_bits_are_refused(tmp_path, damage, message):
    projection = trained().projection
    damaged = {"decoder_4_bits": damage(projection.arrays()["decoder_4_bits"])}
    save_artifact(tmp_path / "model", "model", projection.artifact_settings(), {"model": damaged})
    with pytest.raises(InputError, match=message):
        Projection.load(tmp_path / "model")


@pytest.mark.parametrize(("bits", "recipe"), [(8, "pursuit"), (4, "autoencoder"), (4, "paper")])
def test_decoders_of_other_bits_are_refused(bits, recipe):
    with pytest.raises(ValueError, match=f"decoder_bits = {bits} with recipe '{recipe}'"):
        TrainConfig(decoder_bits=bits, recipe=recipe)


@pytest.mark.parametrize(
    ("share", "recipe"), [(-0.1, "pursuit"), (1.0, "pursuit"), (0.1, "paper"), (np.nan, "pursuit")]
)
def test_latent_dropout_out_of_range_is_refused(share, recipe):
    with pytest.raises(ValueError, match=f"latent_dropout = {share} with recipe '{recipe}'"):
        TrainConfig(latent_dropout=share, recipe=recipe)


@pytest.mark.parametrize(
    ("power", "recipe"), [(-0.1, "pursuit"), (0.6, "pursuit"), (0.1, "paper"), (np.nan, "pursuit")]
)
def test_whitening_out_of_range_is_refused(power, recipe):
    with pytest.raises(ValueError, match=f"whitening = {power} with recipe '{recipe}'"):
        TrainConfig(whitening=power, recipe=recipe)


@pytest.mark.parametrize("nonzeros", [0, 66])
def test_nonzeros_must_fit_the_latents(nonzeros):
    with pytest.raises(ValueError, match=f"nonzeros = {nonzeros}: expected"):
        CompresSAE(dim=4, latents=65, nonzeros=nonzeros)


def test_cpu_kernels_agree_with_the_expressions_for_other_devices():
    """Run the torch expressions on the CPU by the dtype or device that the kernels don't take."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((9, 40)).astype(np.float32))
    ids, values = model_ops.abs_topk(x, 6)
    other_ids, other = model_ops.abs_topk(x.double(), 6)
    assert torch.equal(ids, other_ids)
    torch.testing.assert_close(values.double(), other)

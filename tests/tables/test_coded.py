"""Tables of packed sparse codes: rows as the codes give them, bytes within the budget."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressae import CompresSAE, compress
from compressae.retrieval.errors import InputError
from compressae.tables import CodedTable


def rows_of(n=300, d=16, seed=0):
    """Sums of a few of 24 directions, of lengths from 0.1 to 10, the third row zeros."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(24, d))
    rows = np.stack(
        [rng.normal(size=3) @ atoms[rng.choice(24, 3, replace=False)] for _ in range(n)]
    )
    rows *= (10 ** rng.uniform(-1, 1, n) / np.linalg.norm(rows, axis=1))[:, None]
    rows[2] = 0
    return torch.from_numpy(rows.astype(np.float32))


def codes_of(rows, latents=40, nonzeros=5, value_type="int3", **form):
    model = CompresSAE(rows.shape[1], latents, nonzeros)
    return model, compress(model, rows.numpy(), value_type, **form)


@pytest.mark.parametrize("value_type", ["int2", "int4"])
@pytest.mark.parametrize("form", [{"nonzeros": 5}, {"nonzeros": 1}, {"budget": "5 B/row"}])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_rows_are_those_of_the_codes(n, form, value_type):
    rows = rows_of()[3 : 3 + n]
    if "budget" in form and n == 1:
        form = {"budget": 24}
    model, codes = codes_of(rows, value_type=value_type, **form)
    table = CodedTable(codes, model.decoder)
    wanted = torch.from_numpy(codes.reconstruct(model.decoder.detach().numpy()))
    torch.testing.assert_close(table.rows(), wanted, rtol=1e-5, atol=1e-5)
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, n, 50))
    torch.testing.assert_close(table(ids), wanted[ids], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(table(ids[:2]), wanted[ids[:2]], rtol=1e-5, atol=1e-5)
    assert table.nonzeros.tolist() == codes.nonzeros.tolist()


@pytest.mark.parametrize("nbytes", [4401, 4600])
@pytest.mark.parametrize("value_type", ["int2", "int4"])
def test_a_budget_is_kept_to_the_byte_and_used(nbytes, value_type):
    rows = rows_of()
    table = CodedTable.from_dense(rows, nbytes, latents=32, value_type=value_type)
    stored = table.export()
    assert stored.nbytes == sum(t.untyped_storage().nbytes() for t in stored.state_dict().values())
    # One more nonzero of the row that would gain most is all that can be left.
    assert nbytes - 3 - nbytes // 100 <= stored.nbytes <= nbytes


def test_more_bytes_come_nearer():
    rows = rows_of()
    errors = [
        float(
            (CodedTable.from_dense(rows, nbytes, 32, "int2").export().rows() - rows).square().sum()
        )
        for nbytes in (3100, 3700, 4600)
    ]
    total = float(rows.square().sum())
    assert errors[2] < errors[1] < errors[0] < 0.5 * total and errors[2] < 0.05 * total


def test_lengths_are_kept_and_zeros_stay_zeros():
    rows = rows_of()
    found = CodedTable.from_dense(rows, 6000, latents=32).export().rows()
    assert (found[2] == 0).all()
    others = torch.arange(len(rows)) != 2
    ratios = (found.norm(dim=1) / rows.norm(dim=1))[others]
    assert 0.9 < float(ratios.median()) < 1.02 and float(ratios.max()) < 1.1


def test_rows_of_zeros_stay_zeros_when_gains_are_trained():
    table = CodedTable.from_dense(rows_of(), 5000, latents=32)
    optimizer = torch.optim.AdamW(table.parameters(), 0.05)
    before = table.rows().detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        (table.rows() - 1).square().sum().backward()
        optimizer.step()
    after = table.rows()
    assert (after[2] == 0).all() and table.gains[0] == 0
    assert ((after - before).abs().sum(1) > 0).sum() == len(before) - 1


def test_important_rows_come_nearer():
    rows = rows_of()
    weights = np.ones(len(rows))
    weights[:50] = 100
    errors = []
    for chosen in (None, weights):
        table = CodedTable.from_dense(rows, 4000, latents=32, importance=chosen)
        found = torch.nn.functional.cosine_similarity(table.rows(), rows)[3:50]
        errors.append(float((1 - found.detach()).mean()))
    assert errors[1] < 0.6 * errors[0]


def test_what_is_stored_has_a_decoder_of_four_bits_and_the_same_rows():
    table = CodedTable.from_dense(rows_of(), 5000, latents=32)
    stored = table.export()
    h, d = table.decoder.shape
    assert stored.decoder.dtype == torch.uint8 and stored.decoder.shape == (h, d // 2)
    assert stored.rows().dtype == torch.float32
    assert not any(p.requires_grad for p in stored.parameters())
    assert all(p.requires_grad for p in table.parameters())
    torch.testing.assert_close(stored.rows(), table.rows(), rtol=1e-5, atol=1e-6)
    assert stored.nbytes == table.nbytes - 4 * h * d + h * (d // 2 + 4)
    again = stored.export()
    torch.testing.assert_close(again.rows(), stored.rows(), rtol=0, atol=0)


@pytest.mark.parametrize("d", [1, 2, 7, 16])
def test_a_decoder_that_was_trained_on_is_rounded_for_storage(d):
    codes = CodedTable.from_dense(rows_of(300, d), 5000, latents=16)
    with torch.no_grad():
        codes.decoder.mul_(1.5).add_(
            0.1 * torch.randn(16, d, generator=torch.Generator().manual_seed(0))
        )
        codes.decoder[3] = 0
    stored = codes.export()
    back = stored._float_decoder(torch.float32)
    assert back.shape == (16, d) and (back[3] == 0).all()
    error = (back - codes.decoder.detach()).norm() / codes.decoder.detach().norm()
    assert float(error) < 0.15
    state = {name: tensor.clone() for name, tensor in stored.state_dict().items()}
    loaded = CodedTable.from_state_dict(state)
    torch.testing.assert_close(loaded.rows(), stored.rows(), rtol=0, atol=0)
    assert not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(InputError, match="without decoder_scales"):
        CodedTable.from_state_dict({k: v for k, v in state.items() if k != "decoder_scales"})


def test_a_decoder_of_half_precision_goes_on_loading():
    table = CodedTable.from_dense(rows_of(), 5000, latents=32)
    state = table.state_dict() | {"decoder": table.decoder.detach().half()}
    loaded = CodedTable.from_state_dict(state)
    assert not any(p.requires_grad for p in loaded.parameters())
    torch.testing.assert_close(loaded.rows(), table.rows(), rtol=1e-2, atol=1e-2)


def test_a_decoder_with_nan_is_not_stored():
    table = CodedTable.from_dense(rows_of(), 5000, latents=32)
    with torch.no_grad():
        table.decoder[1, 1] = torch.nan
    with pytest.raises(InputError, match="decoder: NaN or infinity"):
        table.export()


def test_training_the_decoder_undoes_a_rotation():
    rows = rows_of()
    table = CodedTable.from_dense(rows, 6000, latents=32)
    before = float((table.rows() - rows).square().mean().detach())
    turned = rows @ torch.linalg.qr(rows_of(16, 16, 5)[:, :] + torch.eye(16)).Q
    optimizer = torch.optim.Adam(table.parameters(), 0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (table.rows() - turned).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert float(loss.detach()) < 1.2 * before


@given(st.integers(1, 400), st.integers(1, 24), st.floats(0, 1.2), st.integers(0, 99))
@settings(max_examples=40)
def test_no_budget_is_exceeded(n, d, share, seed):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.standard_normal((n, d)).astype(np.float32))
    nbytes = int(share * n * d * 4)
    try:
        table = CodedTable.from_dense(rows, nbytes, seed=seed)
    except InputError as error:
        assert str(error).startswith(f"{nbytes} bytes for {n} rows of {d} in ")
        # What is refused is too little, or next to it: levels take 64 bytes a nonzero at most.
        assert nbytes < CodedTable.least_bytes(n, d) + 3 * n + 64 * (2 + d)
        return
    assert table.export().nbytes <= nbytes
    assert table.rows().shape == (n, d) and torch.isfinite(table.rows()).all()


def test_levels_are_made_for_some_rows_of_a_large_table(monkeypatch):
    rows = rows_of()
    whole = CodedTable.from_dense(rows, 5000, 32).export()
    monkeypatch.setattr("compressae.tables.coded._SAMPLE_ROWS", 64)
    some = CodedTable.from_dense(rows, 5000, 32).export()
    assert some.nbytes <= 5000 and not torch.equal(some.rows(), whole.rows())
    errors = [float((table.rows() - rows).square().sum()) for table in (whole, some)]
    assert errors[1] < 1.5 * errors[0]


def test_rows_of_zeros_cost_the_others_nothing_but_their_least_bytes():
    rows = rows_of()[3:]
    more = torch.cat([rows, torch.zeros(300, 16)])
    table = CodedTable.from_dense(rows, 5000, 32)
    other = CodedTable.from_dense(more, 5000 + 300 * 4, 32)
    errors = [float((t.rows()[: len(rows)] - rows).square().sum().detach()) for t in (table, other)]
    assert errors[1] < 1.2 * errors[0] and (other.rows()[len(rows) :] == 0).all()


def test_a_very_short_row_leaves_the_lengths_of_others():
    rows = rows_of()
    found = CodedTable.from_dense(rows, 5000, 32).export().rows()
    rows[5] *= 1e-12
    other = CodedTable.from_dense(rows, 5000, 32).export().rows()
    ratios = (other.norm(dim=1) / found.norm(dim=1))[10:]
    assert float((ratios - 1).abs().quantile(0.9)) < 0.05
    assert float(other[5].norm()) < 1e-3 * float(rows.norm(dim=1).max())


@pytest.mark.parametrize("budget", [None, "5 B/row"])
def test_a_stored_table_is_read_back_from_its_state_alone(budget):
    model, codes = codes_of(rows_of()[3:], budget=budget)
    stored = CodedTable(codes, model.decoder).export()
    again = CodedTable.from_state_dict(stored.state_dict(), padding_idx=1)
    assert torch.equal(again.rows()[2:], stored.rows()[2:]) and (again.rows()[1] == 0).all()
    assert again.nbytes == stored.nbytes and again.num_parameters == stored.num_parameters == 0
    with torch.no_grad():
        again.gains.zero_()
    assert stored.rows().any()  # Of their own.
    trained = CodedTable.from_state_dict(CodedTable(codes, model.decoder).state_dict())
    assert trained.num_parameters == sum(p.numel() for p in trained.parameters())
    with pytest.raises(InputError, match="a state without decoder, gains: expected a coded table"):
        broken = stored.state_dict()
        del broken["gains"], broken["decoder"]
        CodedTable.from_state_dict(broken)


def test_two_dimensions_have_one_nonzero_a_row():
    rows = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    stored = CodedTable.from_dense(rows, 5000).export()
    assert stored.nbytes <= 5000 and (stored.nonzeros == 1).all()
    assert (stored.rows() - rows).square().sum() < 0.01 * rows.square().sum()


def test_a_loaded_state_is_read_by_its_own_bits():
    model, codes = codes_of(rows_of()[3:], latents=64)
    table = CodedTable(codes, model.decoder)
    before = table.rows().detach()
    assert table.value_bits.tolist() == [4, 3, 3, 3, 2]
    state = table.state_dict() | {"value_bits": torch.tensor([3, 3, 3, 3, 3]).byte()}
    table.load_state_dict(state)
    assert torch.equal(table.rows(), CodedTable.from_state_dict(state).rows())
    assert not torch.equal(table.rows(), before)


def test_bad_input_is_refused():
    rows = rows_of()
    model, codes = codes_of(rows[3:])
    with pytest.raises(InputError, match=r"codes of 40 latents and 0 residual .* of 39 rows"):
        CodedTable(codes, model.decoder[:39])
    with pytest.raises(InputError, match="2 residual bytes"):
        CodedTable(codes_of(rows[3:], residual_bytes=2)[1], model.decoder)
    with pytest.raises(InputError, match="rows are all zeros"):
        CodedTable.from_dense(torch.zeros(30, 4), 2000, latents=8)
    with pytest.raises(InputError, match="expected 2352 or more; give more, or fewer latents"):
        CodedTable.from_dense(rows, 1000, latents=32)
    for wrong, message in (
        ({"value_type": "float16"}, "values 'float16': expected one of int4, int3, int2"),
        ({"latents": 0}, "0 latents, seed 0: expected 1 or more"),
        ({"seed": -1}, "None latents, seed -1"),
    ):
        with pytest.raises(InputError, match=message):
            CodedTable.from_dense(rows, 5000, **wrong)
    with pytest.raises(InputError, match="importance: expected 300"):
        CodedTable.from_dense(rows, 5600, latents=32, importance=np.ones(4))


def test_rows_have_their_least_squares_length():
    """Not longer, as those of codes to be searched: of rows alike in every direction, which are
    weighted alike, no factor makes the error less."""
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((800, 16), dtype=np.float32))
    decoded = CodedTable.from_dense(rows, 9000, 64).rows().detach()
    factor = float((rows * decoded).sum() / decoded.square().sum())
    assert (rows - decoded).square().sum() > 0.1 * rows.square().sum()
    assert factor == pytest.approx(1, abs=0.01)

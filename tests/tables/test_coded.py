"""Tables of packed sparse codes: rows as the codes give them, bytes within the budget."""

import numpy as np
import pytest
import torch

from compressae import CompresSAE
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


def codes_of(rows, latents=40, nonzeros=5, values="int3", **settings):
    model = CompresSAE(rows.shape[1], latents, nonzeros)
    return model, model.compress(rows.numpy(), values=values, **settings)


@pytest.mark.parametrize("values", ["int2", "int4"])
@pytest.mark.parametrize("settings", [{"nonzeros": 5}, {"nonzeros": 1}, {"budget": "5 B/row"}])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_rows_are_those_of_the_codes(n, settings, values):
    rows = rows_of()[3 : 3 + n]
    if "budget" in settings and n == 1:
        settings = {"budget": 24}
    model, codes = codes_of(rows, values=values, **settings)
    table = CodedTable(codes, model.decoder)
    wanted = torch.from_numpy(codes.reconstruct(model.decoder.detach().numpy()))
    torch.testing.assert_close(table.rows(), wanted, rtol=1e-5, atol=1e-5)
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, n, 50))
    torch.testing.assert_close(table(ids), wanted[ids], rtol=1e-5, atol=1e-5)
    assert table.nonzeros.tolist() == codes.nonzeros.tolist()


@pytest.mark.parametrize("nbytes", [4501, 4603, 4700])
@pytest.mark.parametrize("values", ["int2", "int4"])
def test_a_budget_is_kept_to_the_byte_and_used(nbytes, values):
    rows = rows_of()
    table = CodedTable.from_dense(rows, nbytes, latents=32, values=values)
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
        for nbytes in (3500, 4100, 5000)
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


def test_weights_bring_rows_nearer():
    rows = rows_of()
    weights = np.ones(len(rows))
    weights[:50] = 100
    errors = []
    for given in (None, weights):
        table = CodedTable.from_dense(rows, 4000, latents=32, weights=given)
        found = torch.nn.functional.cosine_similarity(table.rows(), rows)[3:50]
        errors.append(float((1 - found.detach()).mean()))
    assert errors[1] < 0.6 * errors[0]


def test_what_is_stored_has_a_decoder_of_half_precision_and_the_same_codes():
    table = CodedTable.from_dense(rows_of(), 5000, latents=32)
    with torch.no_grad():
        table.decoder.mul_(1.1)
    stored = table.export()
    assert stored.decoder.dtype == torch.float16 and stored.rows().dtype == torch.float32
    assert not any(p.requires_grad for p in stored.parameters())
    assert all(p.requires_grad for p in table.parameters())
    torch.testing.assert_close(stored.rows(), table.rows(), rtol=1e-2, atol=1e-2)
    assert stored.nbytes == table.nbytes - 2 * table.decoder.numel()


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


def test_bad_input_is_refused():
    rows = rows_of()
    model, codes = codes_of(rows[3:])
    with pytest.raises(InputError, match=r"codes of 40 latents and 0 residual .* of 39 rows"):
        CodedTable(codes, model.decoder[:39])
    with pytest.raises(InputError, match="2 residual bytes"):
        CodedTable(codes_of(rows[3:], residual_bytes=2)[1], model.decoder)
    with pytest.raises(InputError, match="rows are all zeros"):
        CodedTable.from_dense(torch.zeros(30, 4), 2000, latents=8)
    with pytest.raises(InputError, match="give more, or fewer latents"):
        CodedTable.from_dense(rows, 1000, latents=32)
    with pytest.raises(InputError, match="weights: expected 300"):
        CodedTable.from_dense(rows, 5600, latents=32, weights=np.ones(4))

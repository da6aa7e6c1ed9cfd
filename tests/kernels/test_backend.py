"""Which backend works on what."""

import numpy as np
import pytest
import torch

from compressae.kernels import backend
from compressae.kernels.backend import beside, use, uses_triton


def test_auto_goes_by_where_the_data_lives(monkeypatch):
    assert not uses_triton(np.zeros(3))
    assert not uses_triton(torch.zeros(3))
    monkeypatch.setattr(backend, "interprets", lambda: True)
    with use("triton"):
        assert uses_triton(torch.zeros(3))
        assert not uses_triton(np.zeros(3))  # Arrays are numba's all the same.
    assert not uses_triton(torch.zeros(3))
    assert uses_triton(torch.zeros(3), "triton") and not uses_triton(torch.zeros(3), "numba")


def test_a_gpu_without_triton_is_refused(monkeypatch):
    monkeypatch.setattr(backend, "has_triton", lambda: False)
    monkeypatch.setattr(backend, "interprets", lambda: True)
    with pytest.raises(ValueError, match=r"needs Triton .*; pip install 'compressae\[gpu\]'"):
        uses_triton(torch.zeros(3), "triton")


@pytest.mark.gpu
def test_auto_takes_triton_on_a_gpu():
    x = torch.zeros(3, device="cuda")
    assert uses_triton(x) and uses_triton(x, "triton")
    with pytest.raises(ValueError, match="backend 'numba' with a tensor on a GPU; give"):
        uses_triton(x, "numba")


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (np.zeros(3), "triton", "with a numpy array; give torch.from_numpy"),
        (torch.zeros(3), "triton", "with a tensor on the CPU; give tensor.to"),
        (np.zeros(3), "cuda", "backend 'cuda': expected auto, numba or triton"),
    ],
)
def test_a_backend_that_cannot_read_the_data_is_refused(monkeypatch, data, name, message):
    monkeypatch.setattr(backend, "interprets", lambda: False)
    with pytest.raises(ValueError, match=message):
        uses_triton(data, name)


def test_an_array_goes_where_the_data_is():
    levels = np.arange(3.0)
    assert beside(levels, np.zeros(2)) is levels
    assert torch.equal(beside(levels, torch.zeros(2)), torch.from_numpy(levels))

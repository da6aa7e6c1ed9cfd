"""A table in files, a model and a quantiser, a job that encodes the table, and a Ray cluster."""

import os
from itertools import pairwise
from types import SimpleNamespace

import dying
import numpy as np
import pytest

from compressae import CompresSAE, InputError, compress, fit_quantizer
from compressae.cluster.ray import connect
from compressae.cluster.units import Job

N, D, H, K = 700, 12, 64, 4
#: Rows of the files.
CUTS = (0, 290, 291, N)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folders of a table of three .npy files, a model and a quantiser; and the codes of one go."""
    folder = tmp_path_factory.mktemp("cluster")
    rows = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
    items = folder / "items"
    items.mkdir()
    for number, (start, stop) in enumerate(pairwise(CUTS)):
        np.save(items / f"{number}.npy", rows[start:stop])
    model = CompresSAE(D, H, K, seed=1)
    model.save(folder / "model")
    quantizer = fit_quantizer(model, rows, residual_bytes=3)
    quantizer.save(folder / "quantizer")
    codes = compress(model, rows, like=quantizer)
    return SimpleNamespace(
        folder=folder, items=items, rows=rows, model=model, quantizer=quantizer, codes=codes
    )


@pytest.fixture
def job(made, tmp_path):
    return Job(str(made.folder / "model"), str(made.folder / "quantizer"), str(tmp_path / "coded"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A cluster of this machine's processors, whose workers find these tests' modules by value.

    One for all files: where each had its own, the second timed out and its tests were skipped.
    """
    ray = pytest.importorskip("ray", reason="needs ray (pip install 'compressae[ray]')")
    home, os.environ["HOME"] = os.environ.get("HOME", ""), str(tmp_path_factory.mktemp("home"))
    ray.cloudpickle.register_pickle_by_value(dying)
    try:
        yield connect("local")
    except InputError as error:
        pytest.skip(f"no Ray cluster starts on this machine: {error}")
    finally:
        ray.shutdown()
        os.environ["HOME"] = home

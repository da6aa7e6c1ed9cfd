"""The sample that ships, and the script that makes it."""

import gzip
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from compressae.sample import load_sample, sample_path

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sample():
    return load_sample()


def test_shapes_and_lengths(sample):
    table = sample.embeddings.to_array()
    assert table.shape == sample.embeddings.shape == (20_000, 384)
    assert table.dtype == np.float32
    assert len(sample.texts) == 20_000
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=0.002)


def test_rows_are_nouns_in_file_order():
    tensors = load_file(sample_path())
    rows = tensors["rows"]
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < 82_115
    assert np.abs(tensors["values"]).max(axis=1).min() == 127


def test_texts_belong_to_their_rows(sample):
    """Nearest neighbours share words; shifted by one row they no longer do."""
    table = sample.embeddings.to_array()
    asked = np.arange(0, 20_000, 100)
    scores = table[asked] @ table.T
    scores[np.arange(len(asked)), asked] = -1
    nearest = scores.argmax(axis=1)
    words = [set(re.findall(r"[a-z]{4,}", text.lower())) for text in sample.texts]

    def shared(shift: int) -> float:
        pairs = [(words[i + shift], words[j]) for i, j in zip(asked, nearest, strict=True)]
        return float(np.mean([bool(a & b) for a, b in pairs]))

    assert shared(0) > 0.8
    assert shared(1) < 0.6


def test_it_is_small_and_carries_the_licence():
    files = list(sample_path().parent.iterdir())
    assert sum(file.stat().st_size for file in files) < 9_000_000
    text = (sample_path().parent / "WORDNET_LICENSE.txt").read_text()
    assert "Copyright 2006 by Princeton University" in text


def test_script_writes_the_same_bytes_again(tmp_path, monkeypatch):
    place = importlib.util.spec_from_file_location("make_sample", ROOT / "scripts/make_sample.py")
    script = importlib.util.module_from_spec(place)
    place.loader.exec_module(script)
    monkeypatch.setattr(script, "NOUNS", 50)
    monkeypatch.setattr(script, "ROWS", 20)
    table = np.random.default_rng(1).standard_normal((60, 16)).astype(np.float16)
    np.save(tmp_path / "table.npy", table)
    with gzip.open(tmp_path / "texts.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"synset {row}: gloss\n" for row in range(60))
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        given = [str(tmp_path / part) for part in ("table.npy", "texts.txt.gz", name)]
        monkeypatch.setattr("sys.argv", ["make_sample.py", *given])
        script.main()
        written.append({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert sorted(written[0]) == ["wordnet_nouns.safetensors", "wordnet_nouns.txt.gz"]
    tensors = load_file(tmp_path / "first" / "wordnet_nouns.safetensors")
    rows = tensors["rows"]
    assert len(rows) == 20
    assert rows.max() < 50
    off = np.abs(tensors["values"] * tensors["scales"][:, None] - table[rows])
    assert (off <= tensors["scales"][:, None] * 0.501).all()
    texts = gzip.decompress(written[0]["wordnet_nouns.txt.gz"]).decode().splitlines()
    assert texts == [f"synset {row}: gloss" for row in rows]

"""Criteo's, Avazu's and MovieLens's text files, of the right form and of others."""

import gzip
import shutil
import zipfile

import numpy as np
import pytest
import torch
from click_files import AVAZU_TEXT, CRITEO_TEXT, N, criteo_line
from clicks import movielens, readers
from clicks.examples import ordered_parts, random_parts
from clicks.readers import AVAZU, CRITEO
from clicks.vocabulary import Vocabulary

from compressae.retrieval.errors import InputError


def write(path, text):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("chunk", [3, 50_000])
@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz"])
def test_criteo_becomes_examples(tmp_path, name, chunk, monkeypatch):
    monkeypatch.setattr("clicks.readers._CHUNK", chunk)
    found = readers.read(write(tmp_path / name, CRITEO_TEXT), CRITEO, tmp_path / "data")
    assert found.ids.shape == (N, 26) and found.dense.shape == (N, 13)
    assert found.labels.tolist() == [float(i % 3 == 0) for i in range(N)]
    np.testing.assert_allclose(found.dense[5, :4], [np.log(6), 0, 0, np.log(4)], rtol=1e-6)
    assert found.rows["C1"] == 1 and (found.ids[:, 0] == 0).all()  # Each value once: all are rare.
    assert found.rows["C2"] == 3  # Rare ones, empty ones, beef, in order of appearance.
    assert found.ids[:4, 1].tolist() == [1, 2, 1, 2]
    assert found.ids[:8, 2].tolist() == [1, 2, 3, 4, 5, 6, 7, 1] and found.rows["C3"] == 8
    assert found.parts["train"].tolist() == list(range(60))
    assert sorted([*found.parts["valid"], *found.parts["test"]]) == list(range(60, 70))


def test_values_of_later_lines_are_unknown(tmp_path):
    lines = [criteo_line(i % 7) for i in range(N)]
    lines[-1] = criteo_line(3).replace("00000003", "deadbeef")
    path = write(tmp_path / "train.txt", "\n".join(lines))  # No newline at the end.
    found = readers.read(path, CRITEO, tmp_path / "data", min_count=1)
    assert found.rows["C3"] == 8 and found.ids[-1, 2] == 0 and found.ids[-2, 2] > 0


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
def test_avazu_becomes_examples(tmp_path, name):
    found = readers.read(write(tmp_path / name, AVAZU_TEXT), AVAZU, tmp_path / "data")
    assert found.features[:4] == ("hour", "weekday", "C1", "banner_pos")
    assert found.ids.shape == (N, 23) and found.dense.shape == (N, 0)
    assert found.labels.sum() == len(range(0, N, 4))
    assert found.rows["weekday"] == 2 and found.rows["hour"] == 25 and found.rows["site_id"] == 6
    batch = found.batch(np.array([0, 24, 1]))
    assert batch.features["hour"].tolist() == [1, 1, 2] and batch.dense.shape == (3, 0)


def test_arrays_are_made_once_for_a_file_and_settings(tmp_path, monkeypatch):
    path, folder = write(tmp_path / "train.txt", CRITEO_TEXT), tmp_path / "data"
    first = readers.read(path, CRITEO, folder)
    ids = np.array(first.ids)
    with monkeypatch.context() as patch:
        patch.setattr("clicks.readers._chunks", None)
        assert np.array_equal(readers.read(path, CRITEO, folder).ids, ids)
    fewer = readers.read(path, CRITEO, folder, lines=42)
    assert len(fewer.labels) == 42 and len(fewer.parts["train"]) == 36
    assert readers.read(path, CRITEO, folder, lines=42, min_count=1).rows["C1"] == 37


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        (CRITEO, CRITEO_TEXT + "1\t2\n", r"train, line 71: 2 fields; expected 40 with tabs"),
        (CRITEO, "2" + CRITEO_TEXT[1:], "train, line 1: label '2'; expected 0 or 1"),
        (CRITEO, CRITEO_TEXT.replace("\t3\t", "\tx\t", 1), "train, line 1: invalid literal .* 'x'"),
        (CRITEO, CRITEO_TEXT.replace("0000beef", "quiet", 1), "train, line 1: .*'quiet'"),
        (CRITEO, "", "train: no examples"),
        (CRITEO, CRITEO_TEXT[: CRITEO_TEXT.index("\n")], "1 examples leave none for train"),
        (AVAZU, AVAZU_TEXT + "1,0\n", "train, line 72: 2 fields; expected 24"),
        (AVAZU, AVAZU_TEXT.replace("14101403", "tuesday", 1), "train, line 5: time data 'tuesday'"),
        (AVAZU, AVAZU_TEXT.replace("click,", "", 1), "train, line 1: columns id,hour"),
    ],
)
def test_other_lines_are_refused_by_number(tmp_path, form, text, message):
    with pytest.raises(InputError, match=message):
        readers.read(write(tmp_path / "train", text), form, tmp_path / "data")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(InputError, match="none: no such file"):
        readers.read(tmp_path / "none", CRITEO, tmp_path / "data")
    (tmp_path / "train.gz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="train.gz: cannot be read"):
        readers.read(tmp_path / "train.gz", CRITEO, tmp_path / "data")


@pytest.mark.parametrize("split", [random_parts, ordered_parts])
def test_parts_are_disjoint_and_complete(split):
    parts = split(1001, 3)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1001))
    assert len(parts["train"]) > 5 * len(parts["test"]) > 0
    assert not np.array_equal(split(1001, 4)["test"], parts["test"])


def test_a_vocabulary_numbers_frequent_values_by_appearance():
    vocabulary = Vocabulary()
    for values in (["x", "b"], ["b", "a", "a"], ["x", "x", "once"]):
        vocabulary.count(np.array(values))
    vocabulary.close(least=2)
    assert vocabulary.encode(np.array(["x", "b", "a", "once", "new", ""])).tolist() == [
        1, 2, 3, 0, 0, 0,
    ]  # fmt: skip
    empty = Vocabulary()
    empty.close(1)
    assert len(empty) == 1 and empty.encode(np.array(["x"])).tolist() == [0]


USERS = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
ITEMS = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
PAIRS = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
FILES = {
    "ml-100k.user": USERS + "1\t24\tM\twriter\t85711\n2\t53\tF\tother\tT8H1N\n",
    "ml-100k.item": ITEMS + "7\tA Film\t1995\tDrama War\n8\tunknown\t\t\n9\tB\t1990\tWar\n",
    "ml-100k.inter": PAIRS
    + "".join(f"{1 + i % 2}\t{7 + i % 3}\t{1 + i % 5}\t88125094{i % 10}\n" for i in range(60)),
}


@pytest.fixture
def folder(tmp_path):
    """RecBole's wheel with three small files in the place of MovieLens-100k."""
    place = tmp_path / "ml"
    place.mkdir()
    with zipfile.ZipFile(place / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(f"recbole/dataset_example/ml-100k/{name}", text)
    return place


def test_movielens_is_read_from_the_wheel(folder):
    movielens.fetch(folder)
    found = movielens.read(folder, min_count=1)
    assert found.labels.tolist() == [float(1 + i % 5 >= 4) for i in range(60)]
    assert found.features == ("user", "item", "age", "gender", "occupation", "zip", "year")
    assert found.rows == dict.fromkeys(
        ("user", "age", "gender", "occupation", "zip"), 3
    ) | {"item": 4, "year": 4, "genres": 3}  # fmt: skip
    batch = found.batch(np.array([0, 1, 2, 3]))
    ids, offsets = batch.features["genres"]
    assert offsets.tolist() == [0, 2, 2, 3] and ids.tolist() == [1, 2, 2, 1, 2]
    assert batch.features["user"][0] != batch.features["user"][1]
    assert torch.allclose(batch.dense[0, :2], torch.tensor([24 / 50, 15 / 20]))
    assert found.frequencies()["genres"].sum() == sum(
        2 if i % 3 == 0 else int(i % 3 == 2) for i in found.parts["train"]
    )
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="expected the folder of ml-100k.inter"):
        movielens.read(folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("ml-100k.user", "zip_code", "code", "ml-100k.user, line 1: expected the columns user_id"),
        ("ml-100k.user", "\t53", "", "ml-100k.user, line 3: 4 fields; expected 5"),
        ("ml-100k.inter", "\t1\t", "\tx\t", "ml-100k.inter, line 2: could not convert"),
        ("ml-100k.item", "9\tB", "10\tB", "user 1 or item 9 has no line"),
    ],
)
def test_movielens_of_another_form_is_refused(folder, name, old, new, message):
    movielens.fetch(folder)
    text = (folder / name).read_text()
    (folder / name).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        movielens.read(folder)


def test_a_wheel_without_the_data_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "recbole-9-py3-none-any.whl", "w") as wheel:
        wheel.writestr("recbole/__init__.py", "")
    with pytest.raises(InputError, match="expected recbole==1.2.1"):
        movielens.fetch(tmp_path)

"""The command that writes an atlas."""

import gzip
import json

import numpy as np
import pytest
from commands import call

from compressae import CompresSAE, compress
from compressae.evaluation.atlas import atlas, write_atlas
from compressae.retrieval import Catalogue, CompressedIndex, InvertedIndex


def succeed(*arguments):
    code, out, err = call("inspect", *arguments)
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An index of both kinds, their codes and model, and labels."""
    folder = tmp_path_factory.mktemp("inspect")
    table = np.random.default_rng(0).standard_normal((60, 16)).astype(np.float32)
    model = CompresSAE(16, 64, 4, seed=0)
    codes = compress(model, table)
    model.save(folder / "model")
    codes.save(folder / "codes")
    Catalogue.write(folder / "index", CompressedIndex(model.projection, codes))
    Catalogue.write(folder / "lists", InvertedIndex(codes))
    lines = "".join(f"the label of {i}\n" for i in range(60)).encode()
    (folder / "labels.txt").write_bytes(lines)
    (folder / "labels.txt.gz").write_bytes(gzip.compress(lines))
    return folder


def test_the_page_is_that_of_the_library(made, tmp_path):
    labels = (made / "labels.txt").read_text().splitlines()
    for kind in ("index", "lists"):
        found = atlas(Catalogue.open(made / kind).index, labels, 3, 20)
        write_atlas(found, tmp_path / "expected.html", f"Atlas of latents: {kind}")
        for file in ("labels.txt", "labels.txt.gz"):
            said = json.loads(
                succeed(
                    made / kind,
                    "--labels",
                    made / file,
                    "--top",
                    3,
                    "--latents",
                    20,
                    "-o",
                    tmp_path / "atlas.html",
                    "--json",
                )
            )
            page = (tmp_path / "atlas.html").read_bytes()
            assert page == (tmp_path / "expected.html").read_bytes()
        assert said == {
            "atlas": str(tmp_path / "atlas.html"),
            "bytes": len(page),
            "rows": 60,
            "latents": 64,
            "live": found.live,
            "dead": 64 - found.live,
            "listed": 20,
            "nonzeros": 4.0,
            "list_imbalance": found.list_imbalance,
        }
    out = succeed(made / "index", "-o", tmp_path / "plain.html")
    assert f"live: {found.live}\n" in out
    assert b"the label of" not in (tmp_path / "plain.html").read_bytes()


def test_codes_with_their_model(made, tmp_path):
    succeed(made / "index", "-o", tmp_path / "a.html")
    succeed(made / "codes", "-m", made / "model", "-o", tmp_path / "b.html")
    a, b = (tmp_path / "a.html").read_bytes(), (tmp_path / "b.html").read_bytes()
    assert a.replace(b": index<", b": codes<") == b
    code, _, err = call("inspect", made / "codes", "-o", tmp_path / "c.html")
    assert code == 2 and "give -m MODEL" in err
    code, _, err = call("inspect", made / "index", "-m", made / "model", "-o", tmp_path / "c.html")
    assert code == 2 and "-m is for codes alone" in err
    assert not (tmp_path / "c.html").exists()


def test_what_was_removed_is_not_shown(made, tmp_path):
    index = Catalogue.open(made / "index").index
    index.remove([7, 59])
    Catalogue.write(tmp_path / "index", index)
    out = tmp_path / "atlas.html"
    succeed(tmp_path / "index", "--labels", made / "labels.txt", "--top", 100, "-o", out)
    text = out.read_text()
    assert '"the label of 8"' in text
    assert '"the label of 7"' not in text and '"the label of 59"' not in text


def test_bad_input_is_one_line_and_nothing_is_written(made, tmp_path):
    lines = (made / "labels.txt").read_bytes()
    (tmp_path / "short.txt").write_bytes(lines[: lines.rindex(b"the")])
    (tmp_path / "long.txt").write_bytes(lines + b"one more\n")
    (tmp_path / "latin.txt").write_bytes("é\n".encode("latin-1") * 60)
    (tmp_path / "cut.txt.gz").write_bytes((made / "labels.txt.gz").read_bytes()[:-12])
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "atlas.html"
    for arguments, said in (
        ([tmp_path / "none", "-o", out], "none: no such file or folder"),
        ([made / "labels.txt", "-o", out], "holds no config.json"),
        ([made / "model", "-o", out], "is model; expected catalogue"),
        ([made / "index", "-o", tmp_path / "no" / "a.html"], "no does not exist; create it"),
        (
            [made / "labels.txt", "-o", tmp_path / "no" / "a.html"],
            "no does not exist; create it first",
        ),
        ([made / "index", "-o", tmp_path / "folder"], "a folder stands there"),
        *(
            ([made / "index", "--labels", tmp_path / name, "-o", out], message)
            for name, message in (
                ("none.txt", "none.txt: could not be read (No such file"),
                ("folder", "folder: no plain file; expected a text file of one label a line"),
                ("short.txt", "59 labels for ids up to 59; expected at least 60"),
                ("long.txt", "61 labels for 60 rows; expected 60: give"),
                ("latin.txt", "latin.txt: line 1 is not UTF-8"),
                ("cut.txt.gz", "cut.txt.gz: could not be read"),
            )
        ),
    ):
        code, stdout, err = call("inspect", *arguments)
        assert (code, stdout, err.count("\n")) == (1, "", 1) and said in err, err
        assert sorted(tmp_path.rglob("*")) == before
    for option in (["--top", 0], ["--top", 101], ["--latents", 0]):
        assert call("inspect", made / "index", "-o", out, *option)[0] == 2


def test_rows_are_named_by_ids_that_are_texts(made, tmp_path):
    numbered = Catalogue.open(made / "index").index
    names = [f"sku-{i}" for i in range(60)]
    catalogue = Catalogue.create(
        tmp_path / "index", numbered.projection, numbered.segments.codes(), names
    )
    catalogue.remove(["sku-7"])
    succeed(tmp_path / "index", "--top", 100, "-o", tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert '"sku-8"' in text and '"sku-7"' not in text

"""What users saved goes on loading: artifacts of each format version find what they found."""

import json
import shutil

import numpy as np
import pytest
import saved_formats

from compressae import CompresSAE, encode_like
from compressae.retrieval import Catalogue
from compressae.retrieval.io.artifacts import FORMAT_VERSION, read_config

FOLDERS = sorted(saved_formats.DATA.glob("format_*"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def saved(request):
    pytest.importorskip("duckdb", reason="needs duckdb, which evaluates conditions")
    pytest.importorskip("pyarrow", reason="needs pyarrow, which reads metadata")
    return request.param


def test_the_present_format_is_kept():
    assert saved_formats.DATA / f"format_{FORMAT_VERSION}" in FOLDERS


def test_each_folder_holds_every_kind_in_its_format(saved):
    configs = [read_config(file.parent) for file in saved.rglob("config.json")]
    assert {config.kind for config in configs} == {"model", "codes", "catalogue", "segment"}
    assert {f"format_{config.format_version}" for config in configs} == {saved.name}


def test_searches_find_what_they_found_when_it_was_saved(saved):
    expected = json.loads((saved / "answers.json").read_text())
    answers = saved_formats.answers(saved)
    assert len(answers) == 8 and answers == expected


def test_a_catalogue_goes_on_with_changes(saved, tmp_path):
    shutil.copytree(saved / "catalogue", tmp_path / "catalogue")
    model = CompresSAE.load(saved / "model")
    catalogue = Catalogue.open(tmp_path / "catalogue")
    queries = np.load(saved / "queries.npy")
    codes = encode_like(model, queries[:1], catalogue.like)
    catalogue.add(codes, ids=["latest"], metadata={"price": np.array([7], np.int32)})
    assert "latest" in catalogue.search(queries[:1], 3).ids[0]
    catalogue.compact()
    reopened = Catalogue.open(tmp_path / "catalogue", verify=True)
    assert len(reopened) == 265 and "latest" in reopened.search(queries[:1], 3).ids[0]


def test_compacting_writes_lists_of_the_present_format(saved, tmp_path):
    shutil.copytree(saved / "catalogue_sparse", tmp_path / "catalogue")
    catalogue = Catalogue.open(tmp_path / "catalogue")
    is_older = saved.name == "format_3"
    assert [part.has_older_lists for part in catalogue.index.segments.parts] == [is_older]
    catalogue.compact()
    assert catalogue.version == (2 if is_older else 1)
    (part,) = Catalogue.open(tmp_path / "catalogue", verify=True).index.segments.parts
    assert not part.has_older_lists

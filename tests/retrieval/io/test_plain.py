"""Plain files alone are opened."""

import os
from pathlib import Path

import pytest

from compressae.retrieval import InputError
from compressae.retrieval.io import plain
from compressae.retrieval.io.atomic import check_file_destination
from compressae.retrieval.io.embeddings import open_embeddings
from compressae.retrieval.io.interactions import read_interactions
from compressae.retrieval.io.labels import read_labels
from compressae.retrieval.io.plain import check_plain, open_plain, read_plain

CURE = "copy it again"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "plain").write_bytes(b"content")
    return tmp_path / "plain"


def test_a_plain_file_is_read(file):
    assert read_plain(file, CURE) == b"content"


def special(file, kind):
    """What is no plain file, beside one."""
    path = file.with_name(kind)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "link":
        path.symlink_to(file)
    elif kind == "below a file":
        path = file / "other"
    return path


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "link", "below a file"])
def test_what_is_no_plain_file_is_not_opened(file, kind):
    with pytest.raises(InputError, match="missing or no plain file; copy it again"):
        open_plain(special(file, kind), CURE)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
@pytest.mark.parametrize(
    "read",
    [
        lambda path: check_plain(path, CURE),
        open_embeddings,
        read_labels,
        read_interactions,
        check_file_destination,
    ],
    ids=["check", "embeddings", "labels", "interactions", "destination"],
)
def test_what_is_no_plain_file_is_refused_by_its_readers(file, kind, read):
    with pytest.raises(InputError):
        read(special(file, kind))


def test_a_link_is_followed_where_users_name_a_file(file):
    check_plain(special(file, "link"), CURE)
    assert read_labels(file.with_name("link")) == ["content"]


def test_a_file_that_is_too_large_is_not_read(file, monkeypatch):
    monkeypatch.setattr(plain, "LONGEST", 6)
    with pytest.raises(InputError, match="7 bytes; expected at most 6; copy it again"):
        read_plain(file, CURE)

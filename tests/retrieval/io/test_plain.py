"""Plain files alone are opened."""

import os

import pytest

from compressae.retrieval import InputError
from compressae.retrieval.io import plain
from compressae.retrieval.io.plain import open_plain, read_plain

CURE = "copy it again"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "plain").write_bytes(b"content")
    return tmp_path / "plain"


def test_a_plain_file_is_read(file):
    assert read_plain(file, CURE) == b"content"


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "below a file"])
def test_what_is_no_plain_file_is_refused(file, kind, links):
    path = file.with_name(kind)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = type(path)("/dev/zero")
    elif kind == "below a file":
        path = file / "other"
    with pytest.raises(InputError, match="missing or no plain file; copy it again"):
        open_plain(path, CURE, links)


def test_a_link_is_followed_only_where_that_may_be(file):
    link = file.with_name("link")
    link.symlink_to(file)
    with open_plain(link, CURE, links=True) as opened:
        assert opened.read() == b"content"
    with pytest.raises(InputError, match="no plain file"):
        read_plain(link, CURE)


def test_a_file_that_is_too_large_is_not_read(file, monkeypatch):
    monkeypatch.setattr(plain, "LONGEST", 6)
    with pytest.raises(InputError, match="7 bytes; expected at most 6; copy it again"):
        read_plain(file, CURE)

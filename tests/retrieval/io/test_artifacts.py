import json
import os

import numpy as np
import pytest
from safetensors import SafetensorError

from compressae import InputError
from compressae.retrieval.io import artifacts, atomic

TENSORS = {"part": {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(3)}}


@pytest.fixture
def saved(tmp_path):
    artifacts.save_artifact(tmp_path / "thing", "codes", {"k": 3}, TENSORS)
    return tmp_path / "thing"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_is_mapped_and_equal(saved):
    loaded = artifacts.load_artifact(saved, "codes")
    assert loaded.settings == {"k": 3}
    for name, array in TENSORS["part"].items():
        got = loaded.tensors["part"][name]
        assert isinstance(got, np.memmap) and not got.flags.writeable
        np.testing.assert_array_equal(got, array)
        assert got.dtype == array.dtype
    assert names(saved) == ["config.json", "part.safetensors"]
    assert names(saved.parent) == ["thing"]


def test_saving_again_replaces_the_whole_folder(saved):
    artifacts.save_artifact(saved, "codes", {"k": 4}, {"other": {"c": np.ones(2)}})
    assert names(saved) == ["config.json", "other.safetensors"]
    assert artifacts.load_artifact(saved, "codes").settings == {"k": 4}


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_a_full_disk_leaves_the_old_artifact_whole(saved, monkeypatch, fail_at):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    calls = 0

    def sync(path):
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "_fsync", sync)
    if fail_at < 4:
        with pytest.raises(InputError, match=r"No space left.*unchanged; free some space"):
            artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
        assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
        assert names(saved.parent) == ["thing"]
    else:  # The rename was done: the new one is whole.
        with pytest.raises(InputError):
            artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
        assert artifacts.load_artifact(saved, "codes").settings == {"k": 9}
        assert names(saved.parent) == ["thing"]


def test_a_disk_that_is_full_for_safetensors_is_one_clear_error(saved, monkeypatch):
    """The library raises an error of its own, which is no OSError."""

    def fail(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(artifacts, "save_file", fail)
    with pytest.raises(InputError, match=r"No space left.*unchanged; free some space"):
        artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
    assert artifacts.load_artifact(saved, "codes").settings == {"k": 3}
    assert names(saved.parent) == ["thing"]


@pytest.mark.parametrize("mask", [0o022, 0o007, 0o077])
def test_files_have_the_modes_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        artifacts.save_artifact(tmp_path / "thing", "codes", {}, TENSORS)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "thing").iterdir()}
    assert modes == {"config.json": 0o666 & ~mask, "part.safetensors": 0o666 & ~mask}
    assert (tmp_path / "thing").stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_failed_swap_puts_the_old_one_back(saved, monkeypatch):
    rename = atomic.os.rename

    def refuse(source, target):
        if ".tmp-" in str(source):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(atomic.os, "rename", refuse)
    with pytest.raises(InputError, match="Input/output error"):
        artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
    assert artifacts.load_artifact(saved, "codes").settings == {"k": 3}
    assert names(saved.parent) == ["thing"]


def test_damage_is_named(saved):
    file = saved / "part.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"part\.safetensors: .*truncated"):
        artifacts.load_artifact(saved, "codes")
    file.write_bytes(whole[:-1] + b"\x07")
    with pytest.raises(InputError, match=r"part\.safetensors: damaged \(its checksum differs\)"):
        artifacts.load_artifact(saved, "codes")
    artifacts.load_artifact(saved, "codes", verify=False)
    file.unlink()
    with pytest.raises(InputError, match=r"part\.safetensors: missing"):
        artifacts.load_artifact(saved, "codes")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_versions_kinds_and_configs_are_checked(saved, tmp_path):
    with pytest.raises(InputError, match="is codes; expected model"):
        artifacts.load_artifact(saved, "model")
    edit(saved, format_version=3)
    with pytest.raises(InputError, match="format 3 is newer than the 2 .*upgrade compressae"):
        artifacts.load_artifact(saved, "codes")
    (saved / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: damaged"):
        artifacts.load_artifact(saved, "codes")
    with pytest.raises(InputError, match="no such folder"):
        artifacts.load_artifact(tmp_path / "nothing", "codes")
    with pytest.raises(InputError, match="holds no config.json"):
        artifacts.load_artifact(tmp_path, "codes")


def test_recorded_shapes_are_checked(saved):
    config = json.loads((saved / "config.json").read_text())
    config["files"]["part.safetensors"]["tensors"]["a"][1] = [4, 3]
    edit(saved, files=config["files"])
    with pytest.raises(InputError, match=r"tensors .*expected"):
        artifacts.load_artifact(saved, "codes")


def test_foreign_things_are_never_replaced(saved, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("text")
    for place, kind in (("home", "codes"), ("file", "codes"), ("thing", "model")):
        with pytest.raises(InputError, match="choose another name"):
            artifacts.save_artifact(tmp_path / place, kind, {}, TENSORS)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    artifacts.save_artifact(tmp_path / "empty", "codes", {}, TENSORS)


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="does not exist; create it first"):
        artifacts.check_destination(tmp_path / "no" / "thing", "codes")

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(atomic.Path, "touch", refuse)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        artifacts.save_artifact(tmp_path / "thing", "codes", {}, TENSORS)
    assert names(tmp_path) == []

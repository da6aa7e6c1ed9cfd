import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

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
    """Where names cannot be exchanged in one step."""
    rename = atomic.os.rename

    def refuse(source, target):
        if ".tmp-" in str(source):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    monkeypatch.setattr(atomic.os, "rename", refuse)
    with pytest.raises(InputError, match="Input/output error"):
        artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
    assert artifacts.load_artifact(saved, "codes").settings == {"k": 3}
    assert names(saved.parent) == ["thing"]


def test_without_an_exchange_of_names_two_renames_do(saved, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
    assert artifacts.load_artifact(saved, "codes").settings == {"k": 9}
    assert names(saved.parent) == ["thing"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is of Linux")
def test_names_are_exchanged_in_one_step(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert atomic._exchange(tmp_path / "one", tmp_path / "other")
    assert (names(tmp_path / "one"), names(tmp_path / "other")) == (["other"], ["one"])


def test_many_writers_and_readers_of_one_place_lose_nothing(saved):
    """Each reader finds one artifact whole, whose file is the one that its config names."""
    loaded = []

    def write(k):
        for _ in range(20):
            tensors = {"part": {"a": np.full(100, k), "b": np.full(50, k)}}
            artifacts.save_artifact(saved, "codes", {"k": k}, tensors)

    def read():
        for _ in range(150):
            artifact = artifacts.load_artifact(saved, "codes", verify=False)
            loaded.append(
                (artifact.settings["k"], set(artifact.tensors["part"]["a"].ravel().tolist()))
            )

    write(0)
    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(write, k) for k in range(3)] + [pool.submit(read) for _ in range(2)]
        for future in futures:
            future.result()
    assert len(loaded) == 300
    assert [held for k, held in loaded if held != {k}] == []
    assert names(saved.parent) == ["thing"]


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(saved):
    dead = saved.parent / ".thing.tmp-0123456789ab"
    dead.mkdir()
    (dead / "part.safetensors").write_bytes(b"half")
    with atomic.replacing(saved.parent / "thing", folder=True) as living:
        (living / "config.json").write_text("{}")
        artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
        assert names(saved.parent) == [living.name, "thing"]
    assert names(saved.parent) == ["thing"]


def test_a_failed_sync_after_the_swap_does_not_claim_that_nothing_changed(saved, monkeypatch):
    def fail(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(atomic, "sync_folder", fail)
    with pytest.raises(InputError, match="in place, but may not survive a crash"):
        artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
    assert artifacts.load_artifact(saved, "codes").settings == {"k": 9}


def test_what_is_replaced_keeps_its_modes(saved):
    saved.chmod(0o750)
    (saved / "part.safetensors").chmod(0o640)
    artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
    modes = [path.stat().st_mode & 0o777 for path in (saved, saved / "part.safetensors")]
    assert modes == [0o750, 0o640]


def test_files_that_are_not_of_the_artifact_are_not_deleted_with_it(saved):
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt, which is no part of the codes there"):
        artifacts.save_artifact(saved, "codes", {"k": 9}, TENSORS)
    assert (saved / "notes.txt").read_text() == "mine"


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
    config |= {"checksum": None, **changes}
    (folder / "config.json").write_text(json.dumps(config))


def test_versions_kinds_and_configs_are_checked(saved, tmp_path):
    with pytest.raises(InputError, match="is codes; expected model"):
        artifacts.load_artifact(saved, "model")
    edit(saved, format_version=artifacts.FORMAT_VERSION + 1)
    with pytest.raises(InputError, match="format 8 is newer than the 7 .*upgrade compressae"):
        artifacts.load_artifact(saved, "codes")
    (saved / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: damaged"):
        artifacts.load_artifact(saved, "codes")
    with pytest.raises(InputError, match="no such folder"):
        artifacts.load_artifact(tmp_path / "nothing", "codes")
    with pytest.raises(InputError, match="holds no config.json"):
        artifacts.load_artifact(tmp_path, "codes")


def test_a_config_that_was_changed_is_damaged(saved):
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text.replace('"k": 3', '"k": 4'))
    with pytest.raises(InputError, match=r"config\.json: damaged \(its checksum differs\)"):
        artifacts.load_artifact(saved, "codes", verify=False)


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

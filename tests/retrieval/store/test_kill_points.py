"""A writer that dies at any point leaves the old version or the new one, and nothing to repair.

The writer is a forked process that ends before its i-th call to the file system: each open for
writing, directory, rename and removal (Python's audit events), each sync, and half-way through each
file of tensors.
"""

import os
import shutil
import sys

import numpy as np
import pytest
from scipy import sparse

from compressae.retrieval import Catalogue
from compressae.retrieval.io import artifacts, atomic

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")

H, QUERIES = 7, np.eye(4, 7, dtype=np.float32)
_CALLS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}


def rows_of(seed, count):
    dense = np.random.default_rng(seed).choice([0, -1, 1, 2], (count, H)).astype(np.float32)
    return sparse.csr_array(dense)


def changed(path):
    """A catalogue with all that a change may touch: segments, removals, older versions."""
    catalogue = Catalogue.create(path, None, rows_of(0, 20), [f"r{i}" for i in range(20)])
    catalogue.add(rows_of(1, 3), ["a", "b", "c"])
    catalogue.remove(["r1", "r2", "a"])
    return catalogue


CHANGES = {
    "create": lambda path: Catalogue.create(path, None, rows_of(5, 9), overwrite=True),
    "add": lambda path: Catalogue.open(path).add(rows_of(2, 4), ["d", "e", "f", "g"]),
    "remove": lambda path: Catalogue.open(path).remove(["r5", "b"]),
    "update": lambda path: Catalogue.open(path).update(["r7"], rows_of(3, 1)),
    "compact": lambda path: Catalogue.open(path).compact(),
    "rollback": lambda path: Catalogue.open(path).rollback(1),
    "prune": lambda path: Catalogue.open(path).prune(),
}


def answers(path):
    """What a search finds, and in which version."""
    catalogue = Catalogue.open(path, verify=True)
    hits = catalogue.search(sparse.csr_array(QUERIES), 30)
    return hits.ids.tolist(), hits.scores.tolist()


def run_until(change, path, fatal):
    """Fork a process that makes a change and dies at call ``fatal``; return how many it made, or
    None if it died."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        assert status == 0 or os.WEXITSTATUS(status) == 9, said
        return int(said) if status == 0 else None
    calls = 0

    def count():
        nonlocal calls
        if calls == fatal:
            os._exit(9)
        calls += 1

    def hook(event, arguments):
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if event in _CALLS or writes:
            count()

    def dying(function):
        def call(*arguments, **options):
            count()
            result = function(*arguments, **options)
            count()
            return result

        return call

    def half_written(tensors, file):
        save(tensors, file)
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        count()
        file.write_bytes(whole)

    save = artifacts.save_file
    artifacts.save_file = half_written
    os.fsync, atomic._exchange = dying(os.fsync), dying(atomic._exchange)
    sys.addaudithook(hook)
    try:
        change(path)
    except BaseException as error:
        os.write(writing, repr(error).encode())
        os._exit(1)
    os.write(writing, str(calls).encode())
    os._exit(0)


@pytest.mark.parametrize("name", CHANGES)
def test_a_kill_at_every_call_leaves_the_old_version_or_the_new_one(tmp_path, name):
    change = CHANGES[name]
    changed(tmp_path / "original")
    before = answers(tmp_path / "original")
    shutil.copytree(tmp_path / "original", tmp_path / "whole")
    calls = run_until(change, tmp_path / "whole", -1)
    after = answers(tmp_path / "whole")
    assert calls > 5 and (before == after) == (name in ("compact", "prune"))
    seen = set()
    for fatal in range(calls):
        home = tmp_path / f"home{fatal}"
        home.mkdir()
        shutil.copytree(tmp_path / "original", home / "c")
        assert run_until(change, home / "c", fatal) is None
        found = answers(home / "c")
        assert found in (before, after), f"call {fatal} of {calls}"
        seen.add(found == after)
        # The next writer needs nothing else, and leaves nothing of the dead one.
        if name == "create":
            change(home / "c")
        else:
            Catalogue.open(home / "c").remove(["r9"])
            Catalogue.open(home / "c").prune()
            kept = Catalogue.open(home / "c").versions()
            assert len(kept) == 1
            segments = sorted(path.name for path in (home / "c" / "segments").iterdir())
            assert segments == sorted(segment.name for segment in kept[0].segments)
        assert [path.name for path in home.iterdir()] == ["c"]
        shutil.rmtree(home)
    assert seen == ({False, True} if before != after else {True})


def test_a_kill_during_the_first_writing_leaves_nothing_or_all(tmp_path):
    (tmp_path / "whole").mkdir()
    calls = run_until(CHANGES["create"], tmp_path / "whole" / "c", -1)
    after = answers(tmp_path / "whole" / "c")
    for fatal in range(calls):
        home = tmp_path / f"home{fatal}"
        home.mkdir()
        assert run_until(CHANGES["create"], home / "c", fatal) is None
        assert not (home / "c").exists() or answers(home / "c") == after
        CHANGES["create"](home / "c")
        assert [path.name for path in home.iterdir()] == ["c"] and answers(home / "c") == after

"""Files and folders that are written whole or not at all.

The content goes to a temporary sibling, is synced to disk and renamed into place, so that a crash
or a full disk leaves what was there before.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from compressae.retrieval.errors import InputError


@contextmanager
def replacing(path: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` to write; it replaces ``path`` at the end of the block.

    Args:
        path: the file, or the folder with ``folder=True``; a symbolic link's target is replaced.
        folder: make the sibling a new, empty folder.

    Raises:
        InputError: the disk failed or is full; what was at ``path`` is unchanged.
    """
    target = Path(os.path.realpath(path))
    temporary = _sibling(target, "tmp")
    _remove(temporary)
    try:
        if folder:
            temporary.mkdir()
        yield temporary
        _sync(temporary)
        if folder:
            _swap_folder(temporary, target)
        else:
            os.replace(temporary, target)
        _fsync(target.parent)
    except (OSError, SafetensorError) as error:
        raise _unwritable(Path(path), error) from error
    finally:
        _remove(temporary)


def check_writable(path: str | Path) -> None:
    """Refuse a path whose folder does not exist or cannot be written, before long work is done.

    Raises:
        InputError: see above.
    """
    path = Path(path)
    parent = path.absolute().parent
    if not parent.is_dir():
        raise InputError(f"{path}: folder {parent} does not exist; create it first")
    probe = _sibling(path, "probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{path}: folder {parent} cannot be written ({error.strerror}); choose another place"
        ) from error


def check_file_destination(path: str | Path) -> None:
    """Refuse a path where ``replacing`` could not write a file, before long work is done.

    Raises:
        InputError: the folder does not exist or cannot be written, or ``path`` is no plain file.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(
            f"{path}: could not be written (a folder stands there); choose another name"
        )
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: no plain file; choose another name")
    check_writable(path)


def _sibling(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}.{role}-{os.getpid()}")


def _swap_folder(temporary: Path, path: Path) -> None:
    """Rename a finished folder into place; the older one is restored if that fails."""
    old = _sibling(path, "old")
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(temporary, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
    _fsync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file, or a folder and the files in it, to disk."""
    if path.is_dir():
        for file in path.iterdir():
            _fsync(file)
    _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> InputError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    # safetensors reports the operating system's error as text alone.
    full = getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in reason
    cure = "free some space" if full else "choose another place"
    return InputError(
        f"{path}: could not be written ({reason}); what was there is unchanged; {cure}"
    )

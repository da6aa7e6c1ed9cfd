"""Write files and folders whole or not at all.

The content is written to a temporary sibling, synced to disk and renamed into place, so that a
crash or a full disk leaves the older file or folder unchanged.
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
        path: the file, or the folder with ``folder=True``; of a symbolic link the target is
            replaced.
        folder: create the sibling as an empty folder.

    Raises:
        InputError: the disk failed or is full; an older file or folder is unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "note.txt")
    ...     with replacing(path) as temporary:
    ...         count = temporary.write_text("written whole")
    ...         path.exists()
    ...     path.read_text()
    False
    'written whole'
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
    """Refuse a path that cannot be written, before long work starts.

    Raises:
        InputError: the parent folder does not exist or cannot be written.
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
    """Refuse a path where ``replacing`` could not write a file, before long work starts.

    Raises:
        InputError: the parent folder does not exist or cannot be written; or the path is a folder
            or a special file.
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
    """A hidden name of this process in the folder of ``path``."""
    return path.with_name(f".{path.name}.{role}-{os.getpid()}")


def _swap_folder(temporary: Path, path: Path) -> None:
    """Rename a finished folder into place; restore the older one on failure."""
    old = _sibling(path, "old")
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(temporary, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
    try:
        _fsync(path.parent)  # Before the older folder goes, so that a crash leaves one of them.
    finally:
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
    """Remove a file or a folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _unwritable(path: Path, error: Exception) -> InputError:
    """Make the error of a failed write."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    # safetensors puts the operating system's error only into its text.
    is_full = getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in reason
    cure = "free some space" if is_full else "choose another place"
    return InputError(f"{path}: could not be written ({reason}); an older one is unchanged; {cure}")

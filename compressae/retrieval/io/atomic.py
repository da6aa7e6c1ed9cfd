"""Write files and folders whole or not at all.

The content is written to a temporary sibling, synced to disk and renamed into place, so that a
crash or a full disk leaves the older file or folder unchanged. A folder takes the place of an older
one by an exchange of names where the system has one, so that there is no moment without it.
"""

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.plain import check_plain
from compressae.retrieval.io.remote import REMOTE_OUTPUT, local_path

try:
    import fcntl
except ImportError:  # Windows: leftovers of killed writers stay.
    fcntl = None  # type: ignore[assignment]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def replacing(path: str | Path, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` to write; it replaces ``path`` at the end of the block.

    Any number of threads and processes may write to one path: the last one stays. What a killed
    writer left is removed by the next one. Modes of what is replaced are kept.

    Args:
        path: the file, or the folder with ``folder=True``; of a symbolic link the target is
            replaced.
        folder: create the sibling as an empty folder.

    Raises:
        InputError: the disk failed or is full, or the path is a URL; an older file or folder is
            unchanged.

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
    target = Path(os.path.realpath(local_path(path, REMOTE_OUTPUT)))
    outcome = "an older one is unchanged"
    try:
        sweep(target.parent, target.name)
        temporary = _sibling(target, "tmp")
        with _marked(temporary, folder):
            try:
                yield temporary
                _sync(temporary)
                _keep_modes(temporary, target)
                _take_place(temporary, target)
                outcome = "it is in place, but may not survive a crash of the machine"
                sync_folder(target.parent)
            finally:
                _remove(temporary)
    except (OSError, SafetensorError) as error:
        raise _unwritable(Path(path), error, outcome) from error


def sweep(folder: Path, name: str = "") -> None:
    """Remove the temporary siblings that killed writers left in a folder.

    Args:
        folder: where to look.
        name: of the file or folder that was to be written; of any when empty.
    """
    if fcntl is None:
        return
    for leftover in folder.glob(f".{name}.tmp-*" if name else ".*.tmp-*"):
        with suppress(OSError):
            handle = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW)
            try:  # A living writer holds the lock.
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(leftover)
            finally:
                os.close(handle)


def check_writable(path: str | Path) -> None:
    """Refuse a path that cannot be written, before long work starts.

    Raises:
        InputError: the parent folder does not exist or cannot be written, or the path is a URL.
    """
    path = local_path(path, REMOTE_OUTPUT)
    parent = path.absolute().parent
    if not parent.is_dir():
        raise InputError(f"{path}: folder {parent} does not exist; create it first")
    probe = _sibling(path, "tmp")
    try:
        probe.touch()
        probe.unlink(missing_ok=True)  # Another writer may sweep it away.
    except OSError as error:
        raise InputError(
            f"{path}: folder {parent} cannot be written ({error.strerror}); choose another place"
        ) from error


def check_file_destination(path: str | Path) -> None:
    """Refuse a path where ``replacing`` could not write a file, before long work starts.

    Raises:
        InputError: the parent folder does not exist or cannot be written; or the path is a folder,
            a special file or a URL.
    """
    path = local_path(path, REMOTE_OUTPUT)
    if path.is_dir():
        raise InputError(
            f"{path}: could not be written (a folder stands there); choose another name"
        )
    check_plain(path, "choose another name")
    check_writable(path)


def check_new_file(path: Path, overwrite: bool) -> None:
    """Refuse a path where no file can be written, or an older file without ``overwrite``.

    Raises:
        InputError: see above.
    """
    check_file_destination(path)
    if path.exists() and not overwrite:
        raise InputError(
            f"{path}: an older file is there; overwrite it (--overwrite), or choose another name"
        )


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, so that renames survive a crash of the machine."""
    _fsync(folder)


@contextmanager
def _marked(temporary: Path, folder: bool) -> Iterator[None]:
    """Create a temporary file or folder, locked for as long as its writer lives; see ``sweep``."""
    while True:
        if folder:
            temporary.mkdir()
        else:
            temporary.touch(exist_ok=False)
        try:
            handle = os.open(temporary, os.O_RDONLY)
        except FileNotFoundError:  # Swept away before it was locked.
            continue
        if fcntl is not None:
            with suppress(OSError):  # A file system without locks.
                fcntl.flock(handle, fcntl.LOCK_SH)
        if temporary.exists():
            break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _sibling(path: Path, role: str) -> Path:
    """A hidden name in the folder of ``path`` that nobody else has."""
    return path.with_name(f".{path.name}.{role}-{secrets.token_hex(6)}")


def _take_place(temporary: Path, path: Path) -> None:
    """Rename a finished file or folder into place. An older folder is left at ``temporary``."""
    if not temporary.is_dir() or not path.exists():
        os.replace(temporary, path)
        return
    if _exchange(temporary, path):
        return
    # Two renames: for a moment nothing stands at the path. The older folder returns on failure.
    old = _sibling(path, "old")
    os.rename(path, old)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(old, path)
        raise
    os.rename(old, temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # Not Linux, or an old C library.
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):  # A file system without it.
        return False
    raise OSError(number, os.strerror(number), str(other))


def _keep_modes(temporary: Path, old: Path) -> None:
    """Give a new file, or a folder and its files, the modes of those that they replace."""
    pairs = [(temporary, old)]
    if temporary.is_dir() and old.is_dir():
        pairs += [(file, old / file.name) for file in temporary.iterdir()]
    for new, replaced in pairs:
        if replaced.exists():
            new.chmod(replaced.stat().st_mode & 0o7777)


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


def _unwritable(path: Path, error: Exception, outcome: str) -> InputError:
    """Make the error of a failed write; ``outcome`` is what stands at the path."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    # safetensors puts the operating system's error only into its text.
    is_full = getattr(error, "errno", None) == errno.ENOSPC or f"os error {errno.ENOSPC}" in reason
    cure = "free some space" if is_full else "choose another place"
    return InputError(f"{path}: could not be written ({reason}); {outcome}; {cure}")

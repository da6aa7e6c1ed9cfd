"""Single files that are written at once or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressae.retrieval.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary sibling of a file, to be written in the block; it takes the file's place at the
    end of it, and is gone where the block or that failed.

    Raises:
        InputError: the file could not be written; what stood there still stands.
    """
    path = Path(os.path.realpath(path))  # What a link points to is replaced, not the link.
    temporary = _sibling(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_file_destination(path: str | Path) -> None:
    """Refuse a place where ``replacing`` would fail, before long work is done.

    Raises:
        InputError: the folder does not exist or cannot be written, or a folder stands there.
    """
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; create it first")
    if path.is_dir():
        raise InputError(
            f"{path}: could not be written (a folder stands there); choose another name"
        )
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: no plain file; choose another name")
    try:
        _sibling(path).touch()
        _sibling(path).unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: could not be written ({error.strerror}); choose another place")

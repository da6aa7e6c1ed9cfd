"""Open plain files alone: a link may lead anywhere, and a read of a pipe waits for ever."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from compressae.retrieval.errors import InputError

#: Most bytes of a file that is read whole, such as a config.json: far above any that is written.
LONGEST = 1 << 26
#: Errors of opening what is missing or no plain file; a link is ELOOP or, elsewhere, EMLINK.
_NOT_PLAIN = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMLINK, errno.ENXIO}


def open_plain(path: Path, cure: str) -> BufferedReader:
    """Open a plain file to read: no folder, link, pipe or device.

    Args:
        path: the file.
        cure: what to do, for the error message.

    Raises:
        InputError: it is missing or something else.

    >>> open_plain(Path("/"), "give a file")
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: /: missing or no plain file; give a file
    """
    # A pipe is opened at once, and then refused.
    more = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        file = open(  # noqa: SIM115
            str(path), "rb", opener=lambda name, flags: os.open(name, flags | more)
        )
    except OSError as error:
        if error.errno not in _NOT_PLAIN:
            raise
        raise InputError(f"{path}: missing or no plain file; {cure}") from error
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise InputError(f"{path}: missing or no plain file; {cure}")


def check_plain(path: Path, cure: str) -> None:
    """Refuse what is no plain file nor a link to one, for a reader that opens a path itself.

    What is missing is left to that reader, who knows what to say of it.

    Args:
        path: what is to be opened.
        cure: what to do, for the error message.

    Raises:
        InputError: see above.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: no plain file; {cure}")


def read_plain(path: Path, cure: str) -> bytes:
    """Read a plain file of a size that is read whole.

    Args:
        path: the file.
        cure: what to do, for the error message.

    Raises:
        InputError: it is missing, a link or something else, or too large.
    """
    with open_plain(path, cure) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LONGEST:
            raise InputError(f"{path}: {size} bytes; expected at most {LONGEST}; {cure}")
        return file.read()

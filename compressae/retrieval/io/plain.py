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


def open_plain(path: Path, cure: str, links: bool = False) -> BufferedReader:
    """Open a plain file to read: no folder, pipe or device, nor a link unless that may be.

    Args:
        path: the file.
        cure: what to do, for the error message.
        links: whether a link to a plain file may stand for it.

    Raises:
        InputError: it is missing or something else.

    >>> open_plain(Path("/"), "give a file")
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: /: missing or no plain file; give a file
    """
    more = getattr(os, "O_NONBLOCK", 0)  # A pipe is opened at once, and then refused.
    if not links:
        more |= getattr(os, "O_NOFOLLOW", 0)
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

"""Read labels of rows: a text file with one line per row."""

import gzip
import io
import zlib
from pathlib import Path

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.plain import check_plain
from compressae.retrieval.io.remote import local_path


def read_labels(path: str | Path) -> list[str]:
    """Read the lines of a UTF-8 text file; decompress it if its name ends in .gz.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "labels.txt")
    ...     count = path.write_text("cat\\ndog\\n")
    ...     read_labels(path)
    ['cat', 'dog']
    """
    path = local_path(path, "labels are read from a local file")
    check_plain(path, "expected a text file of one label a line")
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = _decompressed(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{path}: could not be read ({reason}); expected a text file of one label a line"
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: line {line} is not UTF-8; save the labels as UTF-8 text"
        ) from error
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def _decompressed(data: bytes) -> bytes:
    """Decompress gzip data, up to what text may take.

    Raises:
        EOFError: it is cut off, or takes more than a hundred times its size and 16 MB.
    """
    most = max(100 * len(data), 1 << 24)
    text = gzip.GzipFile(fileobj=io.BytesIO(data)).read(most + 1)
    if len(text) > most:
        raise EOFError(f"{len(data)} bytes hold more than {most}, which is no text")
    return text

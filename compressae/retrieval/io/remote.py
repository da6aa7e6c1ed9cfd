"""Read files of object stores and web servers by URL, through fsspec, in ranges of bytes."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from compressae.retrieval.errors import InputError, MissingExtraError

#: A scheme of two letters or more (C:\ is a drive), or fsspec's chain, as filecache::s3://b/x.
_URL = re.compile(r"[a-z][a-z0-9+.-]+(::|://)", re.IGNORECASE)
#: Packages that fsspec needs for a scheme; and those that an extra of compressae installs.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
_EXTRAS = {
    "http": ("aiohttp", "remote"),
    "https": ("aiohttp", "remote"),
    "hf": ("huggingface_hub", "hub"),
}
#: Why results are not written to URLs.
REMOTE_OUTPUT = "results are written beside their place and renamed, which no URL can do"
#: Bytes of a request, at most, and of a gap between rows that is read rather than skipped.
_REQUEST, _GAP = 1 << 23, 1 << 14
#: Requests that are sent together, and their bytes: 8 large ones, or more small ones.
_TOGETHER, _BYTES_TOGETHER = 64, 8 * _REQUEST
#: Bytes that an open file reads ahead; and one of which a header is read.
AHEAD, HEADER_AHEAD = 1 << 22, 1 << 14


def is_url(path: object) -> bool:
    """Whether a path is a URL: ``s3://…``, ``hf://…`` and so on.

    >>> is_url("s3://bucket/items.npy"), is_url("filecache::s3://b/x"), is_url("C://items.npy")
    (True, True, False)
    """
    return isinstance(path, RemotePath) or (isinstance(path, str) and bool(_URL.match(path)))


def as_path(path: "str | Path | RemotePath") -> "Path | RemotePath":
    """A ``RemotePath`` of a URL, else a ``Path``.

    >>> as_path("s3://bucket/items.npy").suffix, as_path("items.npy").name
    ('.npy', 'items.npy')
    """
    if isinstance(path, RemotePath):
        return path
    return RemotePath(str(path)) if is_url(path) else Path(path)


def local_path(path: "str | Path | RemotePath", why: str) -> Path:
    """The path of what must lie on a local file system.

    Args:
        path: as given.
        why: it must, for the error message.

    Raises:
        InputError: it is a URL.

    >>> local_path("s3://bucket/index", "an index is mapped into memory")
    Traceback (most recent call last):
    compressae.retrieval.errors.InputError: s3://bucket/index: an index is mapped into memory; \
expected a local path: copy from there or to there
    """
    if is_url(path):
        raise InputError(f"{path}: {why}; expected a local path: copy from there or to there")
    assert not isinstance(path, RemotePath)
    return Path(path)


@dataclass(frozen=True)
class RemotePath:
    """A file or folder behind a URL, with the part of ``pathlib.Path`` that readers use.

    Nothing is asked of the store before it is needed. Keys and endpoints are those that fsspec and
    the store's own tools read from the environment and their files.

    Attributes:
        url: as given.

    >>> import fsspec
    >>> fsspec.filesystem("memory").pipe("/shards/part-1.bin", b"0123456789")
    >>> folder = RemotePath("memory://shards")
    >>> [file.name for file in folder.iterdir()], (folder / "part-1.bin").read_range(2, 5)
    (['part-1.bin'], b'234')
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part, without a query of http."""
        return re.sub(r"(?<=.)[?#].*", "", self.url).rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Of the name."""
        return Path(self.name).suffix

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system and the path in it."""
        scheme = self.url.rpartition("::")[2].partition("://")[0].lower()
        try:
            import fsspec
        except ImportError:
            raise MissingExtraError("fsspec", "remote", self.url) from None
        with self._named_errors():
            try:
                system, path = fsspec.core.url_to_fs(self.url)
            except ImportError as error:
                if scheme in _EXTRAS:
                    raise MissingExtraError(*_EXTRAS[scheme], self.url) from error
                package = _PACKAGES.get(scheme)
                cure = f"needs {package}; pip install {package}" if package else str(error)
                raise InputError(f"{self.url}: {cure}") from error
            except ValueError as error:
                if "rotocol not known" not in str(error):
                    raise
                raise InputError(
                    f"{self.url}: {scheme}:// is unknown; expected s3://, gs://, hf://, https:// "
                    "or another scheme of fsspec"
                ) from error
        return system, path

    @cached_property
    def _info(self) -> dict[str, Any]:
        """What the store says of the file or folder.

        Raises:
            FileNotFoundError: there is none.
        """
        system, path = self._place
        with self._named_errors():
            info: dict[str, Any] = system.info(path)
        return info

    @property
    def size(self) -> int:
        """Bytes of the file.

        Raises:
            InputError: the server does not say.
        """
        size = self._info.get("size")
        if size is None:
            raise InputError(f"{self.url}: the server does not say how large it is; copy it first")
        return int(size)

    @property
    def version(self) -> str:
        """What the store tells one content of the file from another by; "" where it does not."""
        names = ("ETag", "etag", "LastModified", "last_modified", "mtime")
        return next((str(self._info[name]) for name in names if self._info.get(name)), "")

    def exists(self) -> bool:
        """Whether there is a file or folder."""
        try:
            return bool(self._info)
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether it is a folder; of a web server a URL that ends in a slash."""
        return self._info.get("type") == "directory" or self.url.endswith("/")

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.exists() and not self.is_dir()

    def iterdir(self) -> "list[RemotePath]":
        """Files and folders in the folder."""
        system, path = self._place
        with self._named_errors():
            names = system.ls(path, detail=False)
        return [self / name.rstrip("/").rpartition("/")[2] for name in names]

    @contextmanager
    def open(self, ahead: int = AHEAD) -> Iterator[Any]:
        """Open the file to read, at any place; ``ahead`` bytes more than asked for are fetched."""
        system, path = self._place
        with self._named_errors():
            file = system.open(path, "rb", block_size=ahead, cache_type="readahead")
        with file:
            yield _File(self, file)

    def read_bytes(self, most: int) -> bytes:
        """Read the whole file, of at most so many bytes.

        Raises:
            FileNotFoundError: there is none.
            InputError: it is larger, or cannot be read.
        """
        size = self.size
        if size > most:
            raise InputError(f"{self.url}: {size} bytes; expected at most {most}")
        return self.read_range(0, size) if size else b""

    def read_range(self, start: int, stop: int) -> bytes:
        """Read the bytes start…stop − 1.

        Raises:
            InputError: the file is shorter, or cannot be read.
        """
        return self._ranges([start], [stop])[0]

    def read_rows(
        self, rows: slice | np.ndarray, offset: int, width: int, dtype: np.dtype
    ) -> np.ndarray:
        """Read rows of a matrix that lies in the file row after row.

        A slice is read by requests of 8 MiB, eight at a time; rows by number by a request for each
        run of rows that are close to each other, up to 64 at a time.

        Args:
            rows: a slice with both ends, or row numbers (m,) in any order.
            offset: byte at which row 0 begins.
            width: d.
            dtype: of the numbers.

        Returns:
            (m, d), of that dtype.

        Raises:
            InputError: the file is shorter, or cannot be read.

        >>> import fsspec
        >>> fsspec.filesystem("memory").pipe("/six.bin", np.arange(6, dtype=np.int32).tobytes())
        >>> RemotePath("memory://six.bin").read_rows(np.array([2, 0]), 0, 2, np.dtype(np.int32))
        array([[4, 5],
               [0, 1]], dtype=int32)
        """
        row_bytes = width * dtype.itemsize
        wanted = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else np.unique(rows)
        out = np.empty((len(wanted), width), dtype)
        # A request for each run of rows without a wide gap, cut at multiples of its largest size.
        is_gap = np.diff(wanted) > 1 + _GAP // row_bytes
        is_cut = np.diff(wanted // max(1, _REQUEST // row_bytes)) > 0
        bounds = [0, *(np.flatnonzero(is_gap | is_cut) + 1), len(wanted)][: 1 + len(wanted)]
        runs = [(int(a), int(b)) for a, b in pairwise(bounds)]
        widest = max((int(wanted[b - 1] - wanted[a]) + 1 for a, b in runs), default=1)
        together = max(1, min(_TOGETHER, _BYTES_TOGETHER // (widest * row_bytes)))
        for group in (runs[i : i + together] for i in range(0, len(runs), together)):
            first = [int(wanted[a]) for a, _ in group]
            last = [int(wanted[b - 1]) for _, b in group]
            parts = self._ranges(
                [offset + row * row_bytes for row in first],
                [offset + (row + 1) * row_bytes for row in last],
            )
            for (a, b), row, part in zip(group, first, parts, strict=True):
                out[a:b] = np.frombuffer(part, dtype).reshape(-1, width)[wanted[a:b] - row]
        return out if isinstance(rows, slice) else out[np.searchsorted(wanted, rows)]

    def _ranges(self, starts: list[int], stops: list[int]) -> list[bytes]:
        """The bytes of some ranges, asked for together."""
        system, path = self._place
        with self._named_errors():
            parts: list[bytes] = system.cat_ranges(
                [path] * len(starts), starts, stops, on_error="raise"
            )
        for start, stop, part in zip(starts, stops, parts, strict=True):
            if len(part) != stop - start:
                raise InputError(
                    f"{self.url}: {len(part)} bytes where {stop - start} were asked for at "
                    f"{start}: it is cut off, or its server knows no ranges; copy it first"
                )
        return parts

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Name the URL and the cure in errors of what is read in the block."""
        try:
            yield
        except InputError:
            raise
        except Exception as raised:  # Each store's client has its own errors.
            error: BaseException = raised
            # fsspec calls every failure of a web server a missing file.
            if type(error.__cause__).__module__.startswith("aiohttp"):
                error = error.__cause__ or error
            reason = " ".join(str(error).split()) or type(error).__name__
            status = getattr(error, "status", None) or getattr(error, "code", None)
            if isinstance(error, FileNotFoundError) or status == 404:
                raise FileNotFoundError(f"{self.url}: no such file or folder") from error
            is_refused = (
                isinstance(error, PermissionError)
                or status in (401, 403)
                or "redential" in type(error).__name__
            )
            if is_refused:
                raise InputError(
                    f"{self.url}: no permission to read it ({reason}); expected credentials where "
                    "the store's own tools look for them"
                ) from error
            raise InputError(
                f"{self.url}: cannot be read ({reason}); try again, or copy it first"
            ) from error


class _File(io.RawIOBase):
    """An open file of fsspec whose errors name the URL."""

    def __init__(self, path: RemotePath, file: Any) -> None:
        self._path, self._file = path, file

    def read(self, size: int = -1) -> bytes:
        with self._path._named_errors():
            content: bytes = self._file.read(size)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        place: int = self._file.seek(offset, whence)
        return place

    def tell(self) -> int:
        place: int = self._file.tell()
        return place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

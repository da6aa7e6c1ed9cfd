"""Locate the tensors of a .safetensors file to memory-map them.

The format (huggingface/safetensors): 8 bytes of header length N (little-endian), N bytes of JSON
``{name: {"dtype", "shape", "data_offsets"}}``, then the data. The numpy reader of the safetensors
library copies tensors and cannot read bfloat16; a memory map needs only the offsets.
"""

import math
import os
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.remote import HEADER_AHEAD, RemotePath
from compressae.retrieval.io.schema import Count, checked, from_json

#: Supported dtypes by safetensors name. numpy has no bfloat16: its bits are read as uint16.
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
#: What numpy can address, even of an array without entries.
_MOST_AXES, _MOST_ENTRIES = 32, 1 << 56
_CURE = "write or copy it again"
_LONGEST_HEADER = 100_000_000  # The limit of the safetensors library.


@dataclass(frozen=True)
class TensorPlace:
    """Location of one tensor in a file.

    Attributes:
        path: the file.
        dtype_name: safetensors name of the dtype.
        shape: shape of the tensor.
        offset: byte offset in the file.
    """

    path: Path | RemotePath
    dtype_name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> np.dtype:
        """The numpy dtype."""
        return DTYPES[self.dtype_name]

    def map(self) -> np.ndarray:
        """Memory-map the tensor of a local file, read-only; an empty one is an empty array."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        assert isinstance(self.path, Path)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows (m, d) of a tensor (n, d): of a map, or by requests for ranges of bytes.

        Args:
            rows: a slice with both ends, or row numbers (m,).

        Raises:
            InputError: a remote file cannot be read.
        """
        if isinstance(self.path, RemotePath):
            return self.path.read_rows(rows, self.offset, self.shape[1], self.dtype)
        return self.map()[rows]


@dataclass(frozen=True)
class _Entry:
    """What the header says of a tensor."""

    dtype: str
    shape: list[Count]
    data_offsets: tuple[Count, Count]


def read_places(path: Path | RemotePath) -> dict[str, TensorPlace]:
    """Locate the tensors of a .safetensors file: {name: place}.

    Raises:
        InputError: the file is truncated, is no .safetensors file or has an unsupported dtype.

    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "x.safetensors")
    ...     save_file({"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, path)
    ...     place = read_places(path)["x"]
    ...     place.dtype_name, place.shape, place.map()[1].tolist()
    ('F32', (2, 3), [3.0, 4.0, 5.0])
    """
    if isinstance(path, RemotePath):
        with path.open(HEADER_AHEAD) as file:
            return places_in(file, path, path.size)
    with path.open("rb") as file:
        return places_in(file, path)


def map_tensors(
    file: BufferedReader | bytes, places: dict[str, TensorPlace]
) -> dict[str, np.ndarray]:
    """Memory-map the tensors of an open .safetensors file, read-only, by one map of the file.

    Args:
        file: the file, or what it holds.
        places: of ``places_in``.
    """
    data: np.ndarray
    data = np.frombuffer(file, np.uint8) if isinstance(file, bytes) else np.memmap(file, mode="r")
    tensors = {}
    for name, place in places.items():
        count = place.dtype.itemsize * math.prod(place.shape)
        tensor = data[place.offset : place.offset + count].view(place.dtype)
        tensors[name] = tensor.reshape(place.shape)
    return tensors


def places_in(
    file: BinaryIO, path: Path | RemotePath, size: int | None = None
) -> dict[str, TensorPlace]:
    """Locate the tensors of an open .safetensors file of a path; see ``read_places``.

    ``size`` is that of a file that the system does not know.
    """
    size = os.fstat(file.fileno()).st_size if size is None else size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise InputError(
            f"{path}: {size} bytes are not a whole .safetensors file (header cut off); {_CURE}"
        )
    raw = file.read(length)
    header = from_json(raw, dict[str, Any], f"{path}: header", _CURE)
    header.pop("__metadata__", None)
    places = {}
    for name, described in header.items():
        entry = checked(described, _Entry, f"{path}: tensor {name!r}", _CURE)
        begin, end = entry.data_offsets
        if entry.dtype not in DTYPES:
            raise InputError(
                f"{path}: tensor {name!r} has dtype {entry.dtype}; "
                f"expected one of {', '.join(DTYPES)}"
            )
        place = TensorPlace(path, entry.dtype, tuple(entry.shape), 8 + length + begin)
        if len(place.shape) > _MOST_AXES or math.prod(filter(None, place.shape)) > _MOST_ENTRIES:
            raise InputError(f"{path}: not a .safetensors file (tensor {name!r}: {place.shape})")
        if end - begin != place.dtype.itemsize * math.prod(place.shape):
            raise InputError(
                f"{path}: not a .safetensors file (tensor {name!r}: {end - begin} bytes for shape "
                f"{place.shape})"
            )
        if 8 + length + end > size:
            raise InputError(f"{path}: truncated: {size} bytes of {8 + length + end}; {_CURE}")
        places[name] = place
    return places

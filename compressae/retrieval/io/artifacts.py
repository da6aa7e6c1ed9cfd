"""Save and load artifacts: a folder of ``config.json`` and memory-mapped ``.safetensors`` files.

A folder is written whole or not at all (``io.atomic``). Loading never unpickles.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors.numpy import save_file

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.atomic import check_writable, replacing
from compressae.retrieval.io.plain import open_plain, read_plain
from compressae.retrieval.io.schema import Count, Pattern, Sha256, as_type, from_json
from compressae.retrieval.io.tensorfile import map_tensors, places_in

FORMAT_VERSION = 3
_CONFIG = "config.json"
_CURE = "save or copy the artifact again"
#: How often a folder that is replaced while it is read is read again.
_TRIES = 100


@dataclass(frozen=True)
class FileRecord:
    """What a config says of a file: its size, checksum and tensors {name: [dtype, shape]}, none of
    a .parquet file."""

    bytes: Count
    sha256: Sha256
    tensors: dict[str, tuple[str, list[Count]]]


@dataclass(frozen=True)
class Config:
    """The ``config.json`` of an artifact folder."""

    kind: str
    format_version: Count
    settings: dict[str, Any]
    files: dict[Annotated[str, Pattern(r"[A-Za-z0-9_-]+\.(safetensors|parquet)")], FileRecord]
    library_version: str = "an older version"
    checksum: Sha256 | None = None  # Of the other entries; older files lack it.

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact.

    Attributes:
        path: the folder.
        kind: "model", "codes", "index", …
        settings: the JSON settings saved beside the tensors.
        files: names of the files.
        tensors: {file stem: {tensor name: memory-mapped array}}.
    """

    path: Path
    kind: str
    settings: dict[str, Any]
    files: Collection[str]
    tensors: dict[str, dict[str, np.ndarray]]


@cache
def library_version() -> str:
    """Return the installed version of compressae."""
    try:
        return version("compressae")
    except PackageNotFoundError:  # Run from a source tree that is not installed.
        return "0+source"


def check_destination(path: str | Path, kind: str, parts: Collection[str] = ()) -> None:
    """Refuse a path that ``save_artifact`` would refuse, before long work starts.

    Args:
        path: where the artifact is to stand.
        kind: of the artifact.
        parts: names in the folder of an older one beside its config and the files of that.

    Raises:
        InputError: the parent folder does not exist or cannot be written; or the path is a file or
            a folder that is no artifact of this kind.
    """
    path = Path(path)
    check_writable(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path}: a file stands there; expected a new folder; choose another name")
    names = {entry.name for entry in path.iterdir()}
    if not names:
        return
    try:
        config = read_config(path)
    except InputError:
        config = None
    old_kind = "no artifact" if config is None else config.kind
    if config is None or old_kind != kind:
        raise InputError(
            f"{path}: a folder that is {old_kind}, not {kind}, stands there; it is left as it "
            "is; choose another name"
        )
    foreign = names - {_CONFIG, *config.files, *parts}
    if foreign:
        raise InputError(
            f"{path}: holds {min(foreign)}, which is no part of the {kind} there and would be "
            "lost; move it, or choose another name"
        )


def save_artifact(
    path: str | Path,
    kind: str,
    settings: dict[str, Any],
    tensors: dict[str, dict[str, np.ndarray]],
    others: dict[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write an artifact folder; replace an older artifact of the same kind.

    Args:
        path: the folder; its parent must exist.
        kind: "model", "codes", "index", …
        settings: a JSON object.
        tensors: {file stem: {tensor name: array}}; each stem becomes ``<stem>.safetensors``.
        others: {file name: what writes the file}, for .parquet files.

    Raises:
        InputError: see ``check_destination``; or the disk failed. An older artifact is unchanged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/codes"
    ...     save_artifact(path, "codes", {"rows": 2}, {"packed": {"data": np.arange(3)}})
    ...     artifact = load_artifact(path, "codes")
    ...     artifact.settings, artifact.tensors["packed"]["data"].tolist()
    ({'rows': 2}, [0, 1, 2])
    """
    check_destination(path, kind)
    with replacing(path, folder=True) as folder:
        write_artifact(folder, kind, settings, tensors, others)


def write_artifact(
    folder: Path,
    kind: str,
    settings: dict[str, Any],
    tensors: dict[str, dict[str, np.ndarray]],
    others: dict[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write the files of an artifact into a folder that stands ready; see ``save_artifact``."""
    config: dict[str, Any] = {
        "kind": kind,
        "format_version": FORMAT_VERSION,
        "library_version": library_version(),
        "settings": settings,
        "files": {},
    }
    for stem, arrays in tensors.items():
        file = folder / f"{stem}.safetensors"
        write_tensors(file, arrays)
        shapes = {k: [str(v.dtype), list(v.shape)] for k, v in arrays.items()}
        config["files"][file.name] = _record(file, shapes)
    for name, write in (others or {}).items():
        write(folder / name)
        config["files"][name] = _record(folder / name, {})
    config["checksum"] = _config_checksum(config)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _record(file: Path, tensors: dict[str, list]) -> dict[str, Any]:
    """What a config says of a file; see ``FileRecord``."""
    return {"bytes": file.stat().st_size, "sha256": checksum(file), "tensors": tensors}


def write_tensors(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a .safetensors file with the mode that the umask sets (safetensors itself: 0600)."""
    file.touch()
    mode = file.stat().st_mode
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file)
    file.chmod(mode)


def read_config(path: str | Path) -> Config:
    """Read and check the ``config.json`` of an artifact folder.

    Raises:
        InputError: the folder is no artifact, is damaged, or has a newer format.
    """
    path = Path(path)
    file = path / _CONFIG
    if not path.exists():
        raise InputError(f"{path}: no such folder; expected a saved artifact")
    if not file.is_file():
        raise InputError(f"{path}: holds no {_CONFIG}; expected a folder saved by compressae")
    raw = read_plain(file, _CURE)
    # The format comes first: a newer one may hold what this version would call damaged.
    header = from_json(raw, dict[str, Any], str(file), _CURE)
    format_version = header.get("format_version")
    if type(format_version) is int and format_version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format {format_version} is newer than the {FORMAT_VERSION} that compressae "
            f"{library_version()} reads; upgrade compressae"
        )
    try:
        config = as_type(header, Config)
    except ValueError as error:
        raise InputError(f"{file}: damaged or not of compressae ({error}); {_CURE}") from error
    if config.checksum is not None and config.checksum != _config_checksum(header):
        raise InputError(f"{file}: damaged (its checksum differs); {_CURE}")
    return config


def _config_checksum(config: dict[str, Any]) -> str:
    """SHA-256 of a config without its checksum."""
    rest = {name: value for name, value in config.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def load_artifact(path: str | Path, kind: str, verify: bool = True) -> Artifact:
    """Open an artifact folder; tensors are memory-mapped.

    A folder that another process replaces meanwhile is read again, so that all files are of one.

    Args:
        path: the folder.
        kind: the expected kind.
        verify: compare each file with its checksum, which reads it once.

    Raises:
        InputError: the folder is no artifact of that kind, is damaged, or has a newer format; the
            message names the file and the cure.
    """
    path = Path(path)
    for tried in range(_TRIES):
        if tried:
            time.sleep(tried * 1e-4)
        before = _identity(path)
        try:
            artifact = _load(path, kind, verify)
        except (InputError, OSError):
            if _identity(path) == before:
                raise
        else:
            if _identity(path) == before:
                return artifact
    raise InputError(f"{path}: was replaced {_TRIES} times while it was read; try again")


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a folder from the one that replaces it."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _load(path: Path, kind: str, verify: bool) -> Artifact:
    config = read_config(path)
    if config.kind != kind:
        raise InputError(f"{path}: is {config.kind}; expected {kind}; give the {kind} folder")
    tensors = {}
    for name, record in config.files.items():
        file = path / name
        with open_plain(file, _CURE) as content:
            size = os.fstat(content.fileno()).st_size
            if size != record.bytes:
                raise InputError(
                    f"{file}: {size} bytes where {record.bytes} were saved (truncated?); {_CURE}"
                )
            if verify and hashlib.file_digest(content, "sha256").hexdigest() != record.sha256:
                raise InputError(f"{file}: damaged (its checksum differs); {_CURE}")
            if file.suffix == ".parquet":
                continue  # Its reader checks what it holds.
            places = places_in(content, file)
            shapes = {key: (str(place.dtype), list(place.shape)) for key, place in places.items()}
            if shapes != record.tensors:
                raise InputError(f"{file}: tensors {shapes}; expected {record.tensors}; {_CURE}")
            tensors[file.stem] = map_tensors(content, places)
    return Artifact(path, kind, config.settings, config.files, tensors)


def checksum(path: Path) -> str:
    """SHA-256 of a plain file, in hexadecimal.

    Raises:
        InputError: it is missing or something else.
    """
    with open_plain(path, _CURE) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

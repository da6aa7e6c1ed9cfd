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
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from safetensors.numpy import save_file

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.atomic import check_writable, replacing
from compressae.retrieval.io.hub import HubFolder
from compressae.retrieval.io.plain import LONGEST, open_plain, read_plain
from compressae.retrieval.io.remote import REMOTE_OUTPUT, RemotePath, as_path, local_path
from compressae.retrieval.io.schema import Count, Pattern, Sha256, as_type, from_json
from compressae.retrieval.io.tensorfile import TensorPlace, map_tensors, places_in

FORMAT_VERSION = 7
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
        tensors: {file stem: {tensor name: array}}, memory-mapped where the folder is local.
    """

    path: Path | RemotePath
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
    path = local_path(path, REMOTE_OUTPUT)
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


def read_config(path: str | Path | RemotePath) -> Config:
    """Read and check the ``config.json`` of an artifact folder.

    Raises:
        InputError: the folder is no artifact, is damaged, or has a newer format.
    """
    path = as_path(path)
    if isinstance(path, RemotePath):
        return _parse_config(_remote_reader(path)(_CONFIG, LONGEST), path)
    file = path / _CONFIG
    if not path.exists():
        raise InputError(f"{path}: no such folder; expected a saved artifact")
    if not file.is_file():
        raise InputError(f"{path}: holds no {_CONFIG}; expected a folder saved by compressae")
    return _parse_config(read_plain(file, _CURE), path)


def _parse_config(raw: bytes, path: Path | RemotePath) -> Config:
    """Check what the ``config.json`` of a folder holds."""
    file = path / _CONFIG
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


def _remote_reader(path: RemotePath) -> Callable[[str, int], bytes]:
    """A function that reads a file of a remote folder, of at most so many bytes: through the cache
    of the Hugging Face Hub where it is there."""
    hub = HubFolder.of(path.url)

    def read(name: str, most: int) -> bytes:
        try:
            return (path / name).read_bytes(most) if hub is None else hub.read_bytes(name, most)
        except FileNotFoundError as error:
            raise InputError(f"{path}: holds no {name}; expected a saved artifact") from error

    return read


def _config_checksum(config: dict[str, Any]) -> str:
    """SHA-256 of a config without its checksum."""
    rest = {name: value for name, value in config.items() if name != "checksum"}
    return json_checksum(rest)


def load_artifact(path: str | Path | RemotePath, kind: str, verify: bool = True) -> Artifact:
    """Open an artifact folder; tensors are memory-mapped.

    A folder that another process replaces meanwhile is read again, so that all files are of one.
    That of a URL is read into memory, and verified; one of the Hugging Face Hub, of one commit.

    Args:
        path: the folder, or its URL.
        kind: the expected kind.
        verify: compare each file with its checksum, which reads it once.

    Raises:
        InputError: the folder is no artifact of that kind, is damaged, or has a newer format; the
            message names the file and the cure.
        MissingExtraError: a URL without fsspec, or without huggingface_hub.
    """
    path = as_path(path)
    if isinstance(path, RemotePath):
        return _load_remote(path, kind)
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


def _checked_config(config: Config, kind: str, path: Path | RemotePath) -> Config:
    if config.kind != kind:
        raise InputError(f"{path}: is {config.kind}; expected {kind}; give the {kind} folder")
    return config


def _load(path: Path, kind: str, verify: bool) -> Artifact:
    config = _checked_config(read_config(path), kind, path)
    tensors = {}
    for name, record in config.files.items():
        file = path / name
        with open_plain(file, _CURE) as content:
            size = os.fstat(content.fileno()).st_size
            _check_size(size, record, file)
            if verify and hashlib.file_digest(content, "sha256").hexdigest() != record.sha256:
                raise InputError(f"{file}: damaged (its checksum differs); {_CURE}")
            if file.suffix == ".parquet":
                continue  # Its reader checks what it holds.
            places = places_in(content, file)
            _check_tensors(places, record, file)
            tensors[file.stem] = map_tensors(content, places)
    return Artifact(path, kind, config.settings, config.files, tensors)


def _load_remote(path: RemotePath, kind: str) -> Artifact:
    """Read an artifact behind a URL into memory."""
    read = _remote_reader(path)
    config = _checked_config(_parse_config(read(_CONFIG, LONGEST), path), kind, path)
    tensors = {}
    for name, record in config.files.items():
        file = path / name
        if file.suffix == ".parquet":
            raise InputError(f"{file}: is read from a local folder alone; copy {path} first")
        raw = read(name, record.bytes)
        _check_size(len(raw), record, file)
        if hashlib.sha256(raw).hexdigest() != record.sha256:
            raise InputError(f"{file}: damaged (its checksum differs); {_CURE}")
        places = places_in(BytesIO(raw), file, len(raw))
        _check_tensors(places, record, file)
        tensors[Path(name).stem] = map_tensors(raw, places)
    return Artifact(path, kind, config.settings, config.files, tensors)


def _check_size(size: int, record: FileRecord, file: Path | RemotePath) -> None:
    if size != record.bytes:
        raise InputError(
            f"{file}: {size} bytes where {record.bytes} were saved (truncated?); {_CURE}"
        )


def _check_tensors(
    places: dict[str, TensorPlace], record: FileRecord, file: Path | RemotePath
) -> None:
    shapes = {key: (str(place.dtype), list(place.shape)) for key, place in places.items()}
    if shapes != record.tensors:
        raise InputError(f"{file}: tensors {shapes}; expected {record.tensors}; {_CURE}")


def json_checksum(content: Any) -> str:
    """SHA-256 of JSON content, whatever the order of its names, in hexadecimal.

    >>> json_checksum({"a": 1, "b": [2]}) == json_checksum({"b": [2], "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checksum(path: Path) -> str:
    """SHA-256 of a plain file, in hexadecimal.

    Raises:
        InputError: it is missing or something else.
    """
    with open_plain(path, _CURE) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

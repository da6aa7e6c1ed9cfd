"""Saved artifacts: one folder of ``config.json`` and ``.safetensors`` files, opened as memory maps.

A folder is written whole or not at all (``io.atomic``). Loading unpickles nothing.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.atomic import check_writable, replacing
from compressae.retrieval.io.tensorfile import read_places

FORMAT_VERSION = 2
_CONFIG = "config.json"


@dataclass(frozen=True)
class Artifact:
    """A loaded folder.

    Attributes:
        path: the folder.
        kind: what it is: "model", "codes", "index", …
        settings: what was saved beside the tensors.
        tensors: {file stem: {tensor name: memory-mapped array}}.
    """

    path: Path
    kind: str
    settings: dict[str, Any]
    tensors: dict[str, dict[str, np.ndarray]]


def library_version() -> str:
    """The installed version of compressae."""
    try:
        return version("compressae")
    except PackageNotFoundError:  # Run from a source tree that is not installed.
        return "0+source"


def check_destination(path: str | Path, kind: str) -> None:
    """Refuse a place that ``save_artifact`` would refuse, before long work is done.

    Raises:
        InputError: the parent does not exist or cannot be written; or something stands there that
            is no artifact of this kind.
    """
    path = Path(path)
    check_writable(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path}: a file stands there; expected a new folder; choose another name")
    if any(path.iterdir()):
        try:
            found = read_config(path)["kind"]
        except InputError:
            found = "no artifact"
        if found != kind:
            raise InputError(
                f"{path}: a folder that is {found}, not {kind}, stands there; it is left as it "
                "is; choose another name"
            )


def save_artifact(
    path: str | Path,
    kind: str,
    settings: dict[str, Any],
    tensors: dict[str, dict[str, np.ndarray]],
) -> None:
    """Write a folder, in place of an older artifact of the same kind if there is one.

    Args:
        path: the folder; its parent must exist.
        kind: what it is.
        settings: anything JSON can hold.
        tensors: {file stem: {tensor name: array}}; each stem becomes ``<stem>.safetensors``.

    Raises:
        InputError: see ``check_destination``; or the disk failed. What stood there still stands.
    """
    check_destination(path, kind)
    config: dict[str, Any] = {
        "kind": kind,
        "format_version": FORMAT_VERSION,
        "library_version": library_version(),
        "settings": settings,
        "files": {},
    }
    with replacing(path, folder=True) as folder:
        (folder / _CONFIG).touch()
        mode = (folder / _CONFIG).stat().st_mode  # As the umask has it; safetensors writes 0600.
        for stem, arrays in tensors.items():
            file = folder / f"{stem}.safetensors"
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file)
            file.chmod(mode)
            config["files"][file.name] = {
                "bytes": file.stat().st_size,
                "sha256": _checksum(file),
                "tensors": {k: [str(v.dtype), list(v.shape)] for k, v in arrays.items()},
            }
        (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_config(path: str | Path) -> dict[str, Any]:
    """The checked ``config.json`` of an artifact folder.

    Raises:
        InputError: it is no artifact, or of a newer format.
    """
    path = Path(path)
    file = path / _CONFIG
    if not path.exists():
        raise InputError(f"{path}: no such folder; expected a saved artifact")
    if not file.is_file():
        raise InputError(f"{path}: holds no {_CONFIG}; expected a folder saved by compressae")
    try:
        config = json.loads(file.read_text())
        found = config["format_version"]
        complete = {"kind", "settings", "files"} <= config.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: damaged or not of compressae; save the artifact again"
        ) from error
    if not isinstance(found, int) or found > FORMAT_VERSION:
        raise InputError(
            f"{path}: format {found} is newer than the {FORMAT_VERSION} that compressae "
            f"{library_version()} reads; upgrade compressae"
        )
    if not complete:
        raise InputError(f"{file}: damaged: parts are missing; save the artifact again")
    return config


def load_artifact(path: str | Path, kind: str, verify: bool = True) -> Artifact:
    """Open a folder; tensors are memory-mapped.

    Args:
        path: the folder.
        kind: what it has to be.
        verify: compare each file with its checksum, which reads it once.

    Raises:
        InputError: not an artifact of that kind, of a newer format, or damaged; the message says
            which file is wrong and what to do.
    """
    path = Path(path)
    config = read_config(path)
    if config["kind"] != kind:
        raise InputError(f"{path}: is {config['kind']}; expected {kind}; give the {kind} folder")
    tensors = {}
    for name, record in config["files"].items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{file}: missing; save or copy the artifact again")
        size = file.stat().st_size
        if size != record["bytes"]:
            raise InputError(
                f"{file}: {size} bytes where {record['bytes']} were saved (truncated?); "
                "save or copy the artifact again"
            )
        if verify and _checksum(file) != record["sha256"]:
            raise InputError(
                f"{file}: damaged (its checksum differs); save or copy the artifact again"
            )
        places = read_places(file)
        found = {key: [str(place.dtype), list(place.shape)] for key, place in places.items()}
        if found != record["tensors"]:
            raise InputError(
                f"{file}: tensors {found}; expected {record['tensors']}; save the artifact again"
            )
        tensors[file.stem] = {key: place.map() for key, place in places.items()}
    return Artifact(path, kind, config["settings"], tensors)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Encode a table in shards: a unit of work at a time, resumed where it stopped."""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compressae.cluster.units import UNIT_ROWS, Failure, FinishedUnit, Job, Unit, plan_units
from compressae.coding.compress import check_like, compress
from compressae.model import CompresSAE
from compressae.retrieval.codes import PackedCodes, load_like
from compressae.retrieval.codes.fitted import FittedQuantizer
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import checksum, json_checksum
from compressae.retrieval.io.atomic import check_writable, replacing, sweep
from compressae.retrieval.io.embeddings import open_embeddings
from compressae.retrieval.io.parquet import id_values, read_columns
from compressae.retrieval.io.plain import read_plain
from compressae.retrieval.io.remote import RemotePath, as_path
from compressae.retrieval.io.schema import from_json
from compressae.retrieval.store.names import check_row_ids
from compressae.retrieval.store.shards import (
    MANIFEST,
    PART,
    Manifest,
    ShardRecord,
    id_kind,
    load_shard,
    save_shard,
    source_identity,
    write_signed,
)

#: What decides the bytes of shards, as a checksum: shards of two jobs are not mixed.
_JOB = "job.sha256"
#: Failed shards that an error message names.
_NAMED = 20
Progress = Callable[[int, int], None] | None


class Runner(Protocol):
    """Runs units somewhere."""

    def run(self, job: Job, units: list[Unit]) -> Iterable[FinishedUnit | Failure]:
        """Yield what became of each unit, in any order; a worker that dies is replaced."""


class InProcess:
    """Runs units one after another in this process."""

    def run(self, job: Job, units: list[Unit]) -> Iterator[FinishedUnit | Failure]:
        """See ``Runner``."""
        for unit in units:
            yield encode_unit(job, unit)


def encode_shards(
    job: Job,
    source: str | Path | RemotePath,
    runner: Runner | None = None,
    rows: int = UNIT_ROWS,
    overwrite: bool = False,
    progress: Progress = None,
) -> Manifest:
    """Encode a table to one folder of codes per unit of work, and a manifest, written last.

    A shard that is there already, of the same rows, model and quantiser, is not encoded again: a
    job that was killed, or some of whose files were at fault, continues where it stopped. Codes are
    the bytes of one encoding of the whole table, on a CPU with at most 23,104 latents, whatever the
    units and the runner.

    Args:
        job: model, quantiser, output.
        source: the table, or its URL.
        runner: where units run; this process when None.
        rows: of a unit, at most; see ``plan_units``.
        overwrite: remove shards of another job from the output.
        progress: called with (rows done, all rows).

    Raises:
        InputError: units failed (the others are written; no manifest is), the output holds
            something else, or an option is at fault.
    """
    folder = Path(job.output)
    units = plan_units(source, job.column, rows, job.id_column)
    model, like = _load(job.model, job.quantizer)
    job = replace(job, source=str(source))
    job = replace(job, key=_key(job, like))
    _claim(folder, job.key, overwrite)

    # Shards that are there already, and units that remain.
    finished: dict[str, FinishedUnit] = {}
    for unit in units:
        earlier = _read_finished(folder, unit, job.key)
        if earlier is not None:
            finished[unit.name] = earlier
    remaining = [unit for unit in units if unit.name not in finished]
    total = sum(unit.rows for unit in units)
    rows_done = total - sum(unit.rows for unit in remaining)
    failures: list[Failure] = []
    if remaining:
        (folder / MANIFEST).unlink(missing_ok=True)  # It names shards that are written again.
        _compile(model, like, job)
        for outcome in (runner or InProcess()).run(job, remaining):
            if isinstance(outcome, Failure):
                failures.append(outcome)
            else:
                finished[outcome.record.name] = outcome
                rows_done += outcome.record.rows
            if progress is not None:
                progress(rows_done, total)
    if failures:
        raise InputError(_failed(failures, len(units), folder))
    kinds = {unit.ids for unit in finished.values()}
    if len(kinds) > 1:
        raise InputError(f"{source}: ids are {' in some files and '.join(sorted(kinds))} in others")
    _remove_others(folder, set(finished))
    records = tuple(finished[unit.name].record for unit in units)
    manifest = Manifest(model.model_id, like.checksum, kinds.pop(), records)
    write_signed(folder / MANIFEST, manifest)
    return manifest


def encode_unit(job: Job, unit: Unit) -> FinishedUnit | Failure:
    """Encode one unit and write its shard; an error of its files is returned, not raised."""
    try:
        return _encode_unit(job, unit)
    except (InputError, OSError, MemoryError) as error:
        return Failure(unit, " ".join(f"{unit.name}: {error}".split()))


def _encode_unit(job: Job, unit: Unit) -> FinishedUnit:
    model, like = _loaded(job.model, job.quantizer, job.key)
    if _key(job, like) != job.key:
        raise InputError(f"{job.quantizer}: changed since the job began; run the command again")
    _check_source(unit)
    items = open_embeddings(unit.source, job.column)
    ids = None
    if job.id_column is not None:  # Before rows are encoded, which takes longest.
        table = read_columns([as_path(unit.source)], [job.id_column], unit.row_groups)
        ids = id_values(table[job.id_column], f"{unit.source}: column {job.id_column!r}")
        check_row_ids(ids, unit.rows)
    codes = compress(
        model,
        items.subset(np.arange(unit.first_row, unit.first_row + unit.rows)),
        like=like,
        device=job.device,
        beam=job.beam,
        threads=job.threads,
    )
    _check_source(unit)
    path = Path(job.output) / unit.name
    _remove(path)  # Of an older job.
    save_shard(path, codes, ids)
    record = ShardRecord(name=unit.name, config=checksum(path / "config.json"), **_shared(unit))
    finished = FinishedUnit(job.key, record, id_kind(ids))
    with replacing(Path(job.output) / f"{unit.name}.json") as file:
        file.write_text(json.dumps(asdict(finished)) + "\n")
    return finished


def _check_source(unit: Unit) -> None:
    """Refuse a file that changed since the units were planned."""
    if source_identity(as_path(unit.source)) != (unit.source_bytes, unit.source_version):
        raise InputError(f"{unit.source}: changed since the job began; run the command again")


def _shared(unit: Unit) -> dict[str, Any]:
    """What the record of a shard has of its unit."""
    return {name: value for name, value in asdict(unit).items() if name != "number"}


def _compile(model: CompresSAE, like: FittedQuantizer, job: Job) -> None:
    """Compile the kernels once, and not in every worker at the same time."""
    rows = np.eye(2, model.dim, dtype=np.float32) + 1
    rows *= like.longest / np.linalg.norm(rows, axis=1, keepdims=True)
    compress(model, rows, like=like, device=job.device, beam=job.beam)


def _failed(failures: list[Failure], units: int, folder: Path) -> str:
    """One line that names failed shards."""
    failures = sorted(failures, key=lambda failure: failure.unit.number)
    named = "; ".join(failure.message for failure in failures[:_NAMED])
    more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    return (
        f"{len(failures)} of {units} shards failed: {named}{more}; the others are in {folder}; "
        "repair the cause and run the command again"
    )


@lru_cache(maxsize=1)
def _loaded(model: str, quantizer: str, key: str) -> tuple[CompresSAE, FittedQuantizer]:
    """Model and quantiser of a job, loaded once in a process."""
    return _load(model, quantizer)


def _load(model: str, quantizer: str) -> tuple[CompresSAE, FittedQuantizer]:
    """Load the model and the quantiser.

    Raises:
        InputError: they do not fit, or are none.
    """
    loaded, like = CompresSAE.load(model), load_like(quantizer)
    if isinstance(like, PackedCodes):
        if like.counts is not None:
            raise InputError(
                f"{quantizer}: codes of a budget, which was shared out over their rows; fit a "
                "quantiser with fit-quantizer --budget"
            )
        like = like.fitted
    try:
        check_like(loaded, like)
    except InputError as error:
        raise InputError(f"{quantizer}: {error}") from error
    return loaded, like


def _key(job: Job, like: FittedQuantizer) -> str:
    """SHA-256 of what decides the bytes of a table's shards."""
    parts: list[Any] = [like.model_id, like.checksum, like.settings, like.least_benefit]
    parts += [job.source, job.column, job.id_column, job.beam]
    return json_checksum(parts)


def _claim(folder: Path, key: str, overwrite: bool) -> None:
    """Create the folder of shards, or continue in one of the same job.

    Raises:
        InputError: it holds something else, or shards of another job without ``overwrite``.
    """
    check_writable(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file stands there; expected a folder; choose another name")
    entries = []
    if folder.exists():
        sweep(folder)  # What a killed writer left.
        entries = [entry for entry in folder.iterdir() if ".tmp-" not in entry.name]
    known = rf"{re.escape(_JOB)}|{re.escape(MANIFEST)}|{PART}(\.json)?"
    foreign = [e.name for e in entries if e.is_symlink() or not re.fullmatch(known, e.name)]
    names = {entry.name for entry in entries}
    if foreign or (names and _JOB not in names):
        raise InputError(
            f"{folder}: holds {min(foreign or names)}, which is no shard; choose another name"
        )
    if names and read_plain(folder / _JOB, "encode again") != f"{key}\n".encode():
        if not overwrite:
            raise InputError(
                f"{folder}: holds shards of another table, model, quantiser or column; give "
                "--overwrite to replace them, or another name"
            )
        (folder / MANIFEST).unlink(missing_ok=True)
        for entry in entries:
            _remove(entry)
    folder.mkdir(exist_ok=True)
    with replacing(folder / _JOB) as file:
        file.write_text(key + "\n")


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove shards of rows that the table no longer has."""
    for entry in list(folder.iterdir()):
        if re.fullmatch(PART, entry.name) and entry.name not in names:
            _remove(entry)
            _remove(folder / f"{entry.name}.json")


def _read_finished(folder: Path, unit: Unit, key: str) -> FinishedUnit | None:
    """What stands beside the whole shard of this unit; None if there is none, or another."""
    path = folder / f"{unit.name}.json"
    with suppress(InputError, OSError):
        cure = "encode the table again"
        finished = from_json(read_plain(path, cure), FinishedUnit, str(path), cure)
        record = asdict(finished.record)
        is_same = all(record[name] == value for name, value in _shared(unit).items())
        config = checksum(folder / unit.name / "config.json")
        if is_same and finished.job == key and finished.record.config == config:
            codes, ids = load_shard(folder / unit.name)
            if len(codes) == unit.rows and id_kind(ids) == finished.ids:
                return finished
    return None

"""Encode a table in shards: a unit of work at a time, resumed where it stopped."""

import hashlib
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

from compressae.cluster.units import UNIT_ROWS, Done, Failure, Job, Unit, plan_units
from compressae.coding.compress import compress
from compressae.model import CompresSAE
from compressae.retrieval.codes import PackedCodes, load_like
from compressae.retrieval.codes.fitted import FittedQuantizer
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import checksum
from compressae.retrieval.io.atomic import check_writable, replacing
from compressae.retrieval.io.embeddings import open_embeddings
from compressae.retrieval.io.parquet import id_values, read_columns
from compressae.retrieval.io.plain import read_plain
from compressae.retrieval.io.remote import RemotePath, as_path
from compressae.retrieval.io.schema import from_json
from compressae.retrieval.store.shards import (
    MANIFEST,
    PART,
    IdKind,
    Manifest,
    ShardRecord,
    save_shard,
    write_signed,
)

#: What decides the bytes of shards, as a checksum: shards of another job are not mixed with them.
_JOB = "job.sha256"
Progress = Callable[[int, int], None] | None


class Runner(Protocol):
    """Runs units somewhere."""

    def run(self, job: Job, units: list[Unit]) -> Iterable[Done | Failure]:
        """Yield what came of each unit, in any order; a worker that dies is replaced."""


class InProcess:
    """Runs units one after another in this process."""

    def run(self, job: Job, units: list[Unit]) -> Iterator[Done | Failure]:
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
    """Encode a table to one folder of codes a unit of work, and a manifest of them, written last.

    A shard that is there already, of the same rows, model and quantiser, is not made again: a job
    that was killed, or of which some files were at fault, goes on where it stopped. Codes are the
    bytes of one encoding of the whole table, on a CPU, whatever the units and the runner.

    Args:
        job: model, quantiser, output.
        source: the table, or its URL.
        runner: where units run; this process when None.
        rows: of a unit, at most; see ``plan_units``.
        overwrite: remove shards of another job from the output.
        progress: called with (rows done, all rows).

    Raises:
        InputError: units failed (the others are made; no manifest is written), the output holds
            something else, or an option is at fault.
    """
    folder = Path(job.output)
    units = plan_units(source, job.column, rows)
    model, like = _load(job.model, job.quantizer)
    key = _key(job, like)
    job = replace(job, key=key)
    _claim(folder, key, overwrite)
    total, done_rows = sum(unit.rows for unit in units), 0
    made: dict[int, Done] = {}
    for unit in units:
        done = _read_done(folder, unit, key)
        if done is not None:
            made[unit.number] = done
            done_rows += unit.rows
    left = [unit for unit in units if unit.number not in made]
    if left:
        # Compile once, and not in every worker at the same time.
        rows_of_any = np.eye(2, model.dim, dtype=np.float32) + 1
        rows_of_any *= like.longest / np.linalg.norm(rows_of_any, axis=1, keepdims=True)
        compress(model, rows_of_any, like=like, device=job.device, beam=job.beam)
    failures: list[Failure] = []
    for outcome in (runner or InProcess()).run(job, left):
        if isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            made[int(outcome.record.name.removeprefix("part-"))] = outcome
            done_rows += outcome.record.rows
        if progress is not None:
            progress(done_rows, total)
    if failures:
        failures.sort(key=lambda failure: failure.unit.number)
        raise InputError(
            f"{len(failures)} of {len(units)} shards failed: "
            + "; ".join(failure.message for failure in failures)
            + f"; the others are in {folder}; mend the input and run the command again"
        )
    kinds = {done.ids for done in made.values()}
    if len(kinds) > 1:
        raise InputError(f"{source}: ids are {' in some files and '.join(sorted(kinds))} in others")
    _remove_others(folder, {done.record.name for done in made.values()})
    records = tuple(made[number].record for number in sorted(made))
    manifest = Manifest(model.model_id, like.checksum, kinds.pop(), records)
    write_signed(folder / MANIFEST, manifest)
    return manifest


def encode_unit(job: Job, unit: Unit) -> Done | Failure:
    """Encode one unit and write its shard; an error of its input is returned, not raised."""
    try:
        model, like = _loaded(job.model, job.quantizer, job.key)
        if _key(job, like) != job.key:
            raise InputError(f"{job.quantizer}: changed since the job began; run the command again")
        items = open_embeddings(unit.source, job.column)
        own = items.subset(np.arange(unit.first_row, unit.first_row + unit.rows))
        codes = compress(
            model, own, like=like, device=job.device, beam=job.beam, threads=job.threads
        )
        ids = None
        if job.id_column is not None:
            table = read_columns([as_path(unit.source)], [job.id_column], unit.row_groups)
            ids = id_values(table[job.id_column], unit.source)
        path = Path(job.output) / unit.name
        shutil.rmtree(path, ignore_errors=True)  # Half of an older job.
        save_shard(path, codes, ids)
    except (InputError, FileNotFoundError, PermissionError) as error:
        return Failure(unit, " ".join(str(error).split()))
    kind: IdKind = "row numbers"
    if ids is not None:
        kind = "integers" if ids.dtype.kind in "iu" else "texts"
    shared = {name: value for name, value in asdict(unit).items() if name != "number"}
    record = ShardRecord(name=unit.name, config=checksum(path / "config.json"), **shared)
    done = Done(job.key, record, kind)
    with replacing(Path(job.output) / f"{unit.name}.json") as file:
        file.write_text(json.dumps(asdict(done)) + "\n")
    return done


@lru_cache(maxsize=1)
def _loaded(model: str, quantizer: str, key: str) -> tuple[CompresSAE, FittedQuantizer]:
    """Model and quantiser of a job, loaded once in a process."""
    return _load(model, quantizer)


def _load(model: str, quantizer: str) -> tuple[CompresSAE, FittedQuantizer]:
    """Load the model and the quantiser.

    Raises:
        InputError: they do not belong together, or are none.
    """
    loaded, like = CompresSAE.load(model), load_like(quantizer)
    if isinstance(like, PackedCodes):
        if like.counts is not None:
            raise InputError(
                f"{quantizer}: codes of a budget, which was shared out over their rows; fit a "
                "quantiser with fit-quantizer --budget"
            )
        like = like.fitted
    if like.model_id != loaded.model_id:
        raise InputError(
            f"{quantizer}: of model {like.model_id}, but {model} is model {loaded.model_id}; fit "
            "the quantiser with this model"
        )
    return loaded, like


def _key(job: Job, like: FittedQuantizer) -> str:
    """SHA-256 of what decides the bytes of a shard beside its rows."""
    parts: list[Any] = [like.model_id, like.checksum, like.settings, like.least_benefit]
    parts += [job.column, job.id_column, job.beam]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _claim(folder: Path, key: str, overwrite: bool) -> None:
    """Make the folder of shards, or go on in one of the same job.

    Raises:
        InputError: it holds something else, or shards of another job without ``overwrite``.
    """
    check_writable(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file stands there; expected a folder; choose another name")
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    foreign = [
        n for n in names if n not in (_JOB, MANIFEST) and not re.fullmatch(rf"{PART}(\.json)?", n)
    ]
    if foreign or (names and _JOB not in names):
        raise InputError(
            f"{folder}: holds {min(foreign or names)}, which is no shard; choose another name"
        )
    if names and read_plain(folder / _JOB, "encode again") != f"{key}\n".encode():
        if not overwrite:
            raise InputError(
                f"{folder}: holds shards of another model, quantiser or column; give --overwrite "
                "to replace them, or another name"
            )
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # It names shards that may be made again.
    with replacing(folder / _JOB) as file:
        file.write_text(key + "\n")


def _remove_others(folder: Path, names: set[str]) -> None:
    """Remove shards of rows that the table no longer has."""
    for entry in folder.iterdir():
        if re.fullmatch(PART, entry.name) and entry.name not in names:
            shutil.rmtree(entry)
            (folder / f"{entry.name}.json").unlink(missing_ok=True)


def _read_done(folder: Path, unit: Unit, key: str) -> Done | None:
    """What stands beside a shard of this unit; None if there is none, or it is another."""
    path = folder / f"{unit.name}.json"
    with suppress(InputError, OSError):
        done = from_json(read_plain(path, "encode again"), Done, str(path), "encode again")
        shared = {name: value for name, value in asdict(unit).items() if name != "number"}
        record = asdict(done.record)
        same = all(record[name] == value for name, value in shared.items())
        config = checksum(folder / unit.name / "config.json")
        if same and done.job == key and done.record.config == config:
            return done
    return None

"""Read the public text files of Criteo and Avazu, line by line, into examples.

Three passes over the file: count lines, count values of the training lines, number all values.
Neither the file nor its numbers have to fit in memory: arrays are maps of files in a folder.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from clicks.examples import Examples, ordered_parts, training_size
from clicks.vocabulary import Vocabulary
from compressae.retrieval.errors import InputError

CRITEO_DENSE, CRITEO_IDS = 13, 26
AVAZU_COLUMNS = (
    "id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id",
    "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type",
    "device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21",
)  # fmt: skip
#: Lines that are parsed before they become arrays.
_CHUNK = 50_000
#: Called with (lines done, all lines, the pass).
Report = Callable[[int, int, str], None]


class Line(NamedTuple):
    """A parsed line."""

    label: int
    dense: list[float]
    values: list[str]


class Format(NamedTuple):
    """A text format.

    Attributes:
        name: of the data set.
        dense: number of dense features.
        features: names of the categorical features.
        header: lines before the first example.
        parse: a line's text to a ``Line``; raises ``ValueError`` with what was expected.
    """

    name: str
    dense: int
    features: tuple[str, ...]
    header: int
    parse: Callable[[str], Line]


def parse_criteo(text: str) -> Line:
    """Parse a line of Criteo's files: label, 13 counts, 26 hexadecimal values, with tabs between.

    A count c becomes log(c + 1), an empty or negative one 0, as in DLRM's public code. An empty
    value is a value of its own.
    """
    fields = text.split("\t")
    if len(fields) != 1 + CRITEO_DENSE + CRITEO_IDS:
        raise ValueError(
            f"{len(fields)} fields; expected 40 with tabs between: a label, 13 counts, 26 values"
        )
    counts = [int(x) if x else 0 for x in fields[1 : 1 + CRITEO_DENSE]]
    values = fields[1 + CRITEO_DENSE :]
    for value in values:
        if value:
            int(value, 16)
    dense = [float(np.log1p(max(count, 0))) for count in counts]
    return Line(_label(fields[0]), dense, values)


def parse_avazu(text: str) -> Line:
    """Parse a line of Avazu's training file; the hour becomes an hour of the day and a weekday."""
    fields = next(csv.reader([text]))
    if len(fields) != len(AVAZU_COLUMNS):
        raise ValueError(f"{len(fields)} fields; expected {len(AVAZU_COLUMNS)} with commas between")
    time = datetime.strptime(fields[2], "%y%m%d%H")
    return Line(_label(fields[1]), [], [str(time.hour), str(time.weekday()), *fields[3:]])


CRITEO = Format(
    "criteo", CRITEO_DENSE, tuple(f"C{i}" for i in range(1, CRITEO_IDS + 1)), 0, parse_criteo
)
AVAZU = Format("avazu", 0, ("hour", "weekday", *AVAZU_COLUMNS[3:]), 1, parse_avazu)


def read(
    path: Path,
    form: Format,
    folder: Path,
    min_count: int = 2,
    lines: int | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Examples:
    """Read examples, in order of time: see ``ordered_parts``.

    Args:
        path: a text file, or one compressed as .gz.
        form: ``CRITEO`` or ``AVAZU``.
        folder: of the arrays; those of the same file and settings are not made a second time.
        min_count: fewer uses of a value in training lines make it rare.
        lines: examples to read at most.
        seed: of the split of validation and test examples.

    Raises:
        InputError: no such file, or a line that is not of the format, by its number.
    """
    report = report or (lambda done, total, what: None)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {form.name}'s training file as text")
    status = path.stat()
    made_of = [str(path.resolve()), status.st_size, status.st_mtime_ns, form.name, min_count, lines]
    record_path = folder / "examples.json"
    if record_path.exists():
        record = json.loads(record_path.read_text())
        if record["made_of"] == made_of:
            return _open(folder, form, record, seed)
    n = _count(path, form, lines)
    vocabularies = [Vocabulary() for _ in form.features]
    train = training_size(n)
    for done, (_, _, columns) in _chunks(path, form, train):
        for vocabulary, values in zip(vocabularies, columns, strict=True):
            vocabulary.count(values)
        report(done, train, "count values")
    for vocabulary in vocabularies:
        vocabulary.close(min_count)
    folder.mkdir(parents=True, exist_ok=True)
    record_path.unlink(missing_ok=True)
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, dtype, shape in (
            ("labels", np.float32, (n,)),
            ("dense", np.float32, (n, form.dense)),
            ("ids", np.int32, (n, len(form.features))),
        )
    }
    start = 0
    for done, (labels, dense, columns) in _chunks(path, form, n):
        rows = slice(start, done)
        arrays["labels"][rows], arrays["dense"][rows] = labels, dense
        for column, values in enumerate(columns):
            arrays["ids"][rows, column] = vocabularies[column].encode(values)
        start = done
        report(done, n, "number values")
    for array in arrays.values():
        array.flush()
    rows_of = {name: len(v) for name, v in zip(form.features, vocabularies, strict=True)}
    record = {"made_of": made_of, "rows": rows_of, "min_count": min_count}
    record_path.write_text(json.dumps(record, indent=2) + "\n")
    return _open(folder, form, record, seed)


def _open(folder: Path, form: Format, record: dict[str, Any], seed: int) -> Examples:
    names = ("labels", "dense", "ids")
    labels, dense, ids = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in names)
    parts = ordered_parts(len(labels), seed)
    facts = {"min_count": record["min_count"], "source": Path(record["made_of"][0]).name}
    return Examples(
        form.name, labels, dense, ids, form.features, record["rows"], parts, facts=facts
    )


def _lines(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _count(path: Path, form: Format, lines: int | None) -> int:
    """Count examples, and check the header."""
    try:
        with _lines(path) as file:
            if form.header:
                names = tuple(file.readline().rstrip("\r\n").split(","))
                if names != AVAZU_COLUMNS:
                    raise InputError(
                        f"{path}, line 1: columns {','.join(names)[:80]}…; expected those of "
                        f"Avazu's training file, {','.join(AVAZU_COLUMNS)}"
                    )
            n = sum(1 for _ in islice(file, lines))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected text or .gz") from error
    if not n:
        raise InputError(f"{path}: no examples; expected a line each")
    return n


def _chunks(
    path: Path, form: Format, lines: int
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray, list[np.ndarray]]]]:
    """(examples so far, (labels, dense, values of each feature)) of the first examples."""
    with _lines(path) as file:
        for _ in range(form.header):
            file.readline()
        examples = islice(file, lines)
        done = 0
        while texts := list(islice(examples, _CHUNK)):
            parsed = []
            for number, text in enumerate(texts, 1 + form.header + done):
                try:
                    parsed.append(form.parse(text.rstrip("\r\n")))
                except ValueError as error:
                    raise InputError(f"{path}, line {number}: {error}") from error
            done += len(parsed)
            labels = np.array([line.label for line in parsed], np.float32)
            dense = np.array([line.dense for line in parsed], np.float32)
            columns = [np.array(values) for values in zip(*(x.values for x in parsed), strict=True)]
            yield done, (labels, dense.reshape(len(parsed), form.dense), columns)


def _label(text: str) -> int:
    if text not in ("0", "1"):
        raise ValueError(f"label {text!r}; expected 0 or 1")
    return int(text)

"""Random damage to saved models, codes and catalogues, with checksums kept or made right again."""

import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy import sparse

from compressae import CompresSAE, compress, encode, fit_quantizer
from compressae.cluster.encode import encode_shards
from compressae.cluster.units import Job
from compressae.retrieval import Catalogue, InputError, Projection, load_codes
from compressae.retrieval.codes import FittedQuantizer
from compressae.retrieval.index.compressed import SearchSettings
from compressae.retrieval.store.shards import merge_shards
from fuzz.place import memory

N, D, H = 260, 8, 32
#: Address space that a load may take beyond what the process has before, and seconds.
MEMORY, SECONDS = 1 << 30, 20
#: Loads of one process before another takes over.
BATCH = 5_000
#: Share of the loads of metadata that are searched with a condition, for which DuckDB starts.
CONDITIONS = 0.25
#: Values that a reader might not expect, in JSON and in arrays.
ODD: tuple = (
    None, True, -1, 0, 1, 2, 7, 255, 256, 65_536, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1,
    1 << 63, -(1 << 63), 10**30, 0.5, -0.0, 1e308, "", "x", "../x", "/etc/passwd", "\x1b[31m\n",
    [], [[]], {}, {"a": 1}, "int8", "float32", "uint64", "dot", "cosine", "all",
)  # fmt: skip


def originals(folder: Path) -> None:
    """Write one artifact of each kind that is loaded."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((N, D)).astype(np.float32)
    model = CompresSAE(D, H, 4, seed=0)
    model.settings = {"recipe": "pursuit"}
    model.save(folder / "model")
    forms = {
        "packed": compress(model, table, residual_bytes=2),
        "ragged": compress(model, table, budget="7 B/row"),
        "dot": compress(model, table, residual_bytes=2, similarity="dot"),
        "float32": encode(model, table),
        "int8": encode(model, table, "int8"),
    }
    for name, codes in forms.items():
        codes.save(folder / f"codes {name}")
        columns = columns_of(len(codes)) if name == "packed" else None
        catalogue = Catalogue.create(
            folder / f"catalogue {name}", model.projection, codes, metadata=columns
        )
        catalogue.remove([3, 5])
        catalogue.add(codes.take(np.arange(6)), metadata=columns and columns_of(6))
        with catalogue.writing() as change:
            change.configure(SearchSettings(query_nonzeros=8, candidates=20, tuned=(5, 20)))
            change.remove([1])
    fit_quantizer(model, table, residual_bytes=2, budget="9 B/row").save(folder / "quantizer")
    fit_quantizer(model, table, residual_bytes=2).save(folder / "whole")
    np.save(folder / "table.npy", table)
    job = Job(str(folder / "model"), str(folder / "whole"), str(folder / "shards"))
    encode_shards(job, folder / "table.npy", rows=200)
    shutil.rmtree(folder / "whole")
    (folder / "table.npy").unlink()
    for kind in ("dot", "cosine"):
        rows = sparse.random_array((N, H), density=0.2, rng=rng, dtype=np.float32)
        names = [f"n{i}" for i in range(N)] if kind == "dot" else np.arange(N) * 3
        lists = Catalogue.create(folder / f"lists {kind}", None, rows, names, similarity=kind)
        lists.remove(names[:2])
        lists.add(rows.tocsr()[:5], None if kind == "cosine" else ["a", "b", "c", "d", "e"])


def columns_of(count: int) -> dict[str, Any]:
    """Metadata of rows."""
    return {"price": np.arange(count) % 50, "brand": [f"brand {i % 7}" for i in range(count)]}


def use(path: Path, verify: bool, conditions: bool) -> list[Any]:
    """Load an artifact and use it; return what it gave.

    Args:
        path: the artifact.
        verify: compare files with their checksums.
        conditions: search with conditions of the metadata too, where there is some.

    Raises:
        InputError: it is refused.
    """
    queries = np.random.default_rng(1).standard_normal((3, D)).astype(np.float32)
    if path.name == "model":
        return [Projection.load(path).encode(queries, 3)[0].tolist()]
    if path.name == "quantizer":
        fitted = FittedQuantizer.load(path)
        return [fitted.checksum, fitted.settings, fitted.least_benefit, fitted.longest]
    if path.name == "shards":
        merged, ids = merge_shards(path)
        return [merged.nonzeros.tobytes(), merged.to_scipy().toarray().tobytes(), ids.tolist()]
    if path.name.startswith("codes"):
        codes = load_codes(path, verify)
        return [codes.nonzeros.tobytes(), codes.to_scipy().toarray().tobytes(), codes.nbytes]
    catalogue = Catalogue.open(path, verify=verify, threads=1)
    answers = [len(catalogue), [version.change for version in catalogue.versions()]]
    asked: list[tuple[Any, dict[str, Any]]] = []
    if catalogue.projection is None:
        lists = sparse.random_array((3, H), density=0.4, rng=np.random.default_rng(2))
        asked += [(lists, {}), (lists, {"exclude": [[], [], []]})]
    else:
        asked += [(queries, {}), (queries, {"candidates": "all"}), (queries, {"scoring": "sparse"})]
    if catalogue.columns:
        some = catalogue.search(queries, 5).ids[0]
        answers.append([str(row) for row in catalogue.metadata(some[some >= 0]).to_pylist()])
        if conditions:
            asked += [(queries, {"where": "price < 20 and brand <> 'brand 3'"})]
    for given, options in asked:
        hits = catalogue.search(given, 7, **options)
        padded = hits.scores == -np.inf
        empty = hits.ids == "" if catalogue.has_text_ids else hits.ids < 0
        assert empty[padded].all() and not np.isnan(hits.scores).any()
        assert (hits.scores[:, 1:] <= hits.scores[:, :-1]).all()
        answers += [hits.ids.tolist(), hits.scores.tolist()]
    return answers


class Copy:
    """A copy of an artifact to damage, restored file by file.

    Args:
        whole: the artifact.
        place: folder of the copy.
    """

    def __init__(self, whole: Path, place: Path) -> None:
        self.path = place / whole.name
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(whole, self.path)
        files = (file for file in whole.rglob("*") if file.is_file() and file.suffix != ".lock")
        self.whole = {str(file.relative_to(whole)): file.read_bytes() for file in sorted(files)}
        #: The files as they are now; those that became something else, or were lost, are left out.
        self.files = dict(self.whole)
        self.changed: set[str] = set()

    def write(self, name: str, raw: bytes) -> None:
        """Write a file, as another one: a map of the older may live."""
        self.remove(name)
        (self.path / name).write_bytes(raw)
        self.files[name] = raw

    def remove(self, name: str) -> Path:
        """Remove a file, or what it became; return where it stood."""
        path = self.path / name
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        self.files.pop(name, None)
        self.changed.add(name)
        return path

    def restore(self) -> None:
        """Undo all damage."""
        for name in self.changed:
            self.write(name, self.whole[name])
        self.files = dict(self.whole)
        self.changed.clear()

    def check(self) -> None:
        """Refuse a copy that loads have changed.

        Raises:
            AssertionError: see above.
        """
        files = [file for file in self.path.rglob("*") if file.is_file() and file.suffix != ".lock"]
        found = {str(file.relative_to(self.path)): file.read_bytes() for file in files}
        assert found == self.whole, f"{self.path.name}: a load wrote files"


def damage(copy: Copy, rng: np.random.Generator) -> str:
    """Damage one file of an artifact; return how."""
    names = sorted(copy.files)
    name = names[rng.integers(len(names))]
    file = Path(name)
    kinds = ["bytes", "bytes", "number", "truncate", "insert", "json", "json", "json"]
    kinds += ["header", "header", "array", "array", "array", "swap", "missing", "folder"]
    kind = kinds[rng.integers(len(kinds))]
    raw = bytearray(copy.files[name])
    if kind == "bytes" and raw:
        for _ in range(rng.integers(1, 5)):
            raw[rng.integers(len(raw))] = rng.integers(256)
    elif kind == "number" and len(raw) > 8:
        at = int(rng.integers(len(raw) - 8))
        odd = [0, -1, 1 << 16, 1 << 31, 1 << 40, -(1 << 63), (1 << 63) - 1]
        raw[at : at + 8] = struct.pack("<q", odd[rng.integers(len(odd))])
    elif kind == "truncate":
        del raw[int(rng.integers(len(raw) + 1)) :]
    elif kind == "insert":
        at = int(rng.integers(len(raw) + 1))
        raw[at:at] = rng.bytes(int(rng.integers(1, 40)))
    elif kind == "json" and file.suffix == ".json":
        raw = bytearray(_change_json(json.loads(raw), rng))
    elif kind in ("header", "array") and file.suffix == ".safetensors":
        raw = bytearray(_change_tensors(bytes(raw), rng, kind == "header"))
    elif kind == "swap":
        raw = bytearray(copy.files[names[rng.integers(len(names))]])
    elif kind == "missing":
        copy.remove(name)
        return f"{kind} {file.name}"
    elif kind == "folder":
        path = copy.remove(name)
        choice = rng.integers(3)
        if choice == 0:
            path.mkdir()
        elif choice == 1:
            os.mkfifo(path)
        else:
            outside = str(copy.path.parent / "outside")
            path.symlink_to([outside, "/dev/zero", file.name][rng.integers(3)])
        return f"{kind} {file.name}"
    copy.write(name, bytes(raw))
    return f"{kind} {file.name}"


def _change_json(content: Any, rng: np.random.Generator) -> bytes:
    """Replace, remove, or add an entry somewhere; or no JSON at all."""
    if rng.random() < 0.03:
        texts = ["[" * 100_000, '{"a":' * 50_000, "NaN", "", "null", "[]", "1" * 5_000]
        return str(rng.choice(texts)).encode()
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(content)
    node, key = places[rng.integers(len(places))]
    way = rng.random()
    if way < 0.15:
        del node[key]
    elif way < 0.25 and isinstance(node, dict):
        node[str(rng.choice(["x", "rows", "settings", "../x"]))] = ODD[rng.integers(len(ODD))]
    elif way < 0.4:
        other, place = places[rng.integers(len(places))]
        node[key] = other[place]
    elif isinstance(node[key], int) and way < 0.7:
        node[key] = node[key] + int(rng.choice([-1, 1, 2, 1 << 20]))
    else:
        node[key] = ODD[rng.integers(len(ODD))]
    try:
        return json.dumps(content).encode()
    except (ValueError, RecursionError):  # An entry within itself.
        return b"{}"


def _change_tensors(raw: bytes, rng: np.random.Generator, header: bool) -> bytes:
    """Change the header of a .safetensors file, or the numbers of a tensor."""
    length = int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8 : 8 + length])
    names = [name for name in entries if name != "__metadata__"]
    if header:
        text = _change_json(entries, rng)
        return len(text).to_bytes(8, "little") + text + raw[8 + length :]
    entry = entries[names[rng.integers(len(names))]]
    begin, end = (8 + length + place for place in entry["data_offsets"])
    dtype = np.dtype(
        {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U32": "<u4", "U16": "<u2", "I8": "i1"}.get(
            entry["dtype"], "u1"
        )
    )
    numbers = np.frombuffer(raw[begin:end], dtype).copy()
    if not len(numbers):
        return raw
    some = rng.integers(len(numbers), size=int(rng.integers(1, 4)))
    way = rng.integers(5)
    if dtype.kind == "f":
        odd = [np.nan, np.inf, -np.inf, 0, -1, 1e38, 1e-45, 1e300]
        with np.errstate(over="ignore"):
            numbers[some] = np.array(odd[rng.integers(len(odd))]).astype(dtype)
    elif way == 0:
        numbers[some] = np.iinfo(dtype).max
    elif way == 1:
        numbers[some] = np.iinfo(dtype).min
    elif way == 2:
        numbers[some] = rng.permutation(numbers)[: len(some)]
    elif way == 3:
        numbers = np.sort(numbers)[:: int(rng.choice([-1, 1]))]
    else:
        numbers[some] += dtype.type(1)
    return raw[:begin] + numbers.tobytes() + raw[end:]


#: Errors of files that are none of those that were written.
_NONE = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


def make_right(copy: Copy) -> None:
    """Write the checksums, sizes and shapes that the damaged files have now."""
    folders = {str(Path(name).parent) for name in copy.changed}
    for name in sorted(copy.files, key=lambda name: -name.count("/")):
        if Path(name).name == "config.json" and str(Path(name).parent) in folders:
            with suppress(*_NONE):  # What is no config stays as it is.
                copy.write(name, _right_config(copy, name))
    if "manifest.json" in copy.files:
        with suppress(*_NONE):
            copy.write("manifest.json", _right_manifest(copy))
    for name in sorted(copy.files):
        if name.startswith("versions/"):
            with suppress(*_NONE):
                raw = _right_version(copy, name)
                if raw != copy.files[name]:
                    copy.write(name, raw)


def _right_config(copy: Copy, name: str) -> bytes:
    """A config that fits the files beside it."""
    content = json.loads(copy.files[name])
    for file, record in content["files"].items():
        raw = copy.files.get(str(Path(name).parent / file))
        if raw is None:
            continue
        record["bytes"], record["sha256"] = len(raw), hashlib.sha256(raw).hexdigest()
        if file.endswith(".parquet"):
            continue
        length = int.from_bytes(raw[:8], "little")
        entries = json.loads(raw[8 : 8 + length])
        names = {"F32": "float32", "F64": "float64", "I64": "int64", "U32": "uint32"}
        names |= {"U16": "uint16", "I8": "int8", "U8": "uint8", "F16": "float16"}
        record["tensors"] = {
            name: [names.get(entry["dtype"], "float32"), entry["shape"]]
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    content.pop("checksum", None)
    text = json.dumps(content, sort_keys=True).encode()
    content["checksum"] = hashlib.sha256(text).hexdigest()
    return json.dumps(content).encode()


def _right_manifest(copy: Copy) -> bytes:
    """A manifest that fits the shards that it names."""
    file = json.loads(copy.files["manifest.json"])
    for shard in file["content"]["shards"]:
        config = copy.files.get(f"{shard['name']}/config.json")
        if config is not None:
            shard["config"] = hashlib.sha256(config).hexdigest()
    text = json.dumps(file["content"], sort_keys=True).encode()
    file["sha256"] = hashlib.sha256(text).hexdigest()
    return json.dumps(file).encode()


def _right_version(copy: Copy, name: str) -> bytes:
    """A version that fits the segments and removals that it names."""
    content = json.loads(copy.files[name])
    for segment in content["version"]["segments"]:
        config = copy.files.get(f"segments/{segment['name']}/config.json")
        if config is not None:
            segment["config"] = hashlib.sha256(config).hexdigest()
    for removal in content["version"]["removals"]:
        raw = copy.files.get(f"removals/{removal['name']}")
        if raw is not None:
            removal |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    text = json.dumps(content["version"], sort_keys=True).encode()
    content["sha256"] = hashlib.sha256(text).hexdigest()
    return json.dumps(content).encode()


def pruned(copy: Copy, how: Sequence[str]) -> bool:
    """Whether damage made versions go, as pruning does: older ones, or the newest with its note."""
    gone = [file for file in how if file.startswith("missing 000") and file.endswith(".json")]
    versions = [Path(name).name for name in copy.whole if name.startswith("versions/")]
    is_newest = bool(gone) and f"missing {max(versions)}" in gone
    return bool(gone) and (not is_newest or any(file.endswith(" newest") for file in how))


def one(
    copies: Sequence[Copy], wholes: dict[tuple[str, bool], Any], rng: np.random.Generator
) -> str:
    """Damage and load one artifact; return what came of it, "!" first where that is wrong.

    Args:
        copies: artifacts, whole; and whole again afterwards.
        wholes: {(name, conditions): what ``use`` gave of the whole one}.
        rng: decides all.
    """
    copy = copies[int(rng.integers(len(copies)))]
    name = copy.path.name
    how = []
    for _ in range(int(rng.integers(1, 3))):
        with suppress(*_NONE):
            how.append(damage(copy, rng))
    right = bool(rng.random() < 0.6)
    if right:
        make_right(copy)
    verify = not right or bool(rng.random() < 0.5)
    conditions = bool(rng.random() < CONDITIONS)
    mode = "right" if right else "kept"
    whole = wholes[name, conditions]
    try:
        answers = use(copy.path, verify, conditions)
    except InputError as error:
        text = str(error)
        if any(ord(letter) < 32 for letter in text):
            return f"!control characters: {how}: {text!r}"
        return f"{mode}: refused"
    except Exception as error:
        return f"!{mode}, {name}, {how}: {error!r}"
    finally:
        copy.restore()
    if not right and answers != whole and not pruned(copy, how):
        return f"!silent difference: {name}, {how}"
    return f"{mode}: {'the same' if answers == whole else 'other'} answers"


def batch(home: Path, place: Path, seed: int, start: int, stop: int, at: Any, said: Any) -> None:
    """Damage and load in a process of its own, whose end the caller watches."""
    paths = sorted(home.iterdir())
    wholes = {
        (path.name, conditions): use(path, True, conditions)
        for path in paths
        for conditions in (False, True)
    }
    copies = [Copy(path, place) for path in paths]
    with Path("/proc/self/statm").open() as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    counts: Counter[str] = Counter()
    for number in range(start, stop):
        at.value = number
        signal.alarm(SECONDS)
        came = one(copies, wholes, np.random.default_rng([seed, number]))
        counts[came if not came.startswith("!") else f"!{number}: {came[1:]}"] += 1
    signal.alarm(0)
    for copy in copies:
        copy.check()
    said.put(counts)


@click.command()
@click.option("--count", default=1_000_000, show_default=True, help="Damaged loads.")
@click.option("--seed", default=0, show_default=True)
@click.option("--start", default=0, show_default=True, help="Number of the first, to repeat one.")
def files(count: int, seed: int, start: int) -> None:
    """Damage saved models, codes and catalogues at random, load them and search.

    Bytes, numbers, JSON, headers and arrays are changed; files are cut, swapped, lost, or become
    folders, pipes and links. In 4 of 10 cases checksums stay as they were, and nothing but an error
    or the same answers may come of it. In the others they are made right again, as by an author of
    ill will, and an error or well-formed answers must come of it. Each load has 1 GB and 20 s.
    Exits with 1 if a load crashed, hung, took more, failed otherwise, or differed in silence.
    """
    began, context = time.perf_counter(), multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        home, place = Path(folder, "whole"), Path(folder, "damaged")
        home.mkdir()
        place.mkdir()
        (place / "outside").write_text("what no load may read")
        originals(home)
        number = start
        while number < start + count:
            stop = min(number + BATCH, start + count)
            at, said = context.Value("q", number), context.Queue()
            process = context.Process(
                target=batch, args=(home, place, seed, number, stop, at, said)
            )
            process.start()
            while process.is_alive() and said.empty():
                process.join(0.5)
            if not said.empty():
                counts += said.get()
                process.join()
                number = stop
            else:  # It died: at which one, and of what.
                code = process.exitcode or 0
                came = signal.Signals(-code).name if code < 0 else f"exit {code}"
                counts[f"!{at.value}: {came}"] += 1
                number = at.value + 1
            wrong = sum(one.startswith("!") for one in counts)
            click.echo(f"{number - start:,} loads, {wrong} wrong", err=True)
            for came in counts:
                if came.startswith("!"):
                    click.echo(came, err=True)
    click.echo(
        json.dumps(
            {"seed": seed, "seconds": round(time.perf_counter() - began), **counts}, indent=1
        )
    )
    if any(came.startswith("!") for came in counts):
        raise click.ClickException("loads crashed, hung, failed or differed; --start N repeats one")

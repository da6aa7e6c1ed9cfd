"""Files of a hostile author: checksums are right, and each load ends in one line or in hits.

`scripts/fuzz files` makes such files at random; these are those that once crashed the process, took
gigabytes, or changed answers without a word.
"""

import gzip
import hashlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from code_forms import make_codes
from commands import call
from scipy import sparse

from compressae import CompresSAE, InputError
from compressae.retrieval import (
    Catalogue,
    CompressedIndex,
    InvertedIndex,
    Projection,
    SparseCodes,
    load_codes,
    open_embeddings,
)
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.retrieval.io.labels import read_labels

N, D, H = 300, 8, 32


@pytest.fixture(scope="module")
def model():
    model = CompresSAE(D, H, 4, seed=0)
    model.settings = {"recipe": "pursuit"}
    return model


@pytest.fixture(scope="module")
def forms(model, tmp_path_factory):
    """Saved codes of each form."""
    folder = tmp_path_factory.mktemp("forms")
    table = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
    for name, how in (
        ("packed", dict(residual_bytes=2)),
        ("ragged", dict(budget="7 B/row")),
        ("float32", dict(values="float32")),
        ("int8", dict(values="int8")),
    ):
        make_codes(model, table, **how).save(folder / name)
    rows = sparse.random_array((N, H), density=0.2, rng=np.random.default_rng(0))
    SparseCodes.from_scipy(rows).save(folder / "rows")
    return folder


def forged(forms, tmp_path, form, settings=None, arrays=None):
    """Codes with other settings and arrays, saved with right checksums."""
    artifact = load_artifact(forms / form, "codes")
    stem = next(iter(artifact.tensors))
    held = {name: np.array(array) for name, array in artifact.tensors[stem].items()}
    changed = {name: change(held) for name, change in (arrays or {}).items()}
    held = {name: array for name, array in {**held, **changed}.items() if array is not None}
    save_artifact(
        tmp_path / "codes", "codes", {**artifact.settings, **(settings or {})}, {stem: held}
    )
    return tmp_path / "codes"


def with_entry(array, place, value):
    array[place] = value
    return array


CODES = {
    "latents that the model lacks": ("packed", {"latents": 64}, {}, "codes over 64 latents"),
    "latents no power of two": ("packed", {"latents": 33}, {}, "codes over 33 latents"),
    "row bounds uint64": (
        "rows",
        {},
        {"indptr": lambda a: a["indptr"].astype(np.uint64)},
        "uint64",
    ),
    "row bounds that wrap": (
        "rows",
        {},
        {"indptr": lambda a: with_entry(a["indptr"], slice(1, 3), [(1 << 62) + 5, -(1 << 62)])},
        "do not fit together",
    ),
    "counts int8, below 0": (
        "ragged",
        {},
        {"counts": lambda a: with_entry(a["counts"].astype(np.int8), 3, -4)},
        "int8 of shape",
    ),
    "counts beyond K": (
        "ragged",
        {},
        {"counts": lambda a: with_entry(a["counts"], 3, 255)},
        "a row of 255 nonzeros",
    ),
    "rows that are not there": (
        "float32",
        {"rows": 300_000_000},
        {"indices": lambda a: a["indices"][:0], "values": lambda a: a["values"][:0]},
        "0 indices for 300000000 rows",
    ),
    "value bits beyond all": (
        "packed",
        {},
        {"quantizer.value_bits": lambda a: with_entry(a["quantizer.value_bits"], 0, 3 * 10**10)},
        "do not fit together",
    ),
    "value bits of floats": (
        "packed",
        {},
        {"quantizer.value_bits": lambda a: a["quantizer.value_bits"].astype(np.float64)},
        "value_bits is float64",
    ),
    "levels in 1 axis": (
        "packed",
        {},
        {"quantizer.levels": lambda a: a["quantizer.levels"][0]},
        "expected float32 of 2",
    ),
    "gains not finite": (
        "packed",
        {},
        {"quantizer.gains": lambda a: with_entry(a["quantizer.gains"], 255, np.inf)},
        "NaN or infinity",
    ),
    "data in two axes": ("packed", {}, {"data": lambda a: a["data"][None]}, "expected bytes"),
    "data of floats": (
        "packed",
        {},
        {"data": lambda a: a["data"].astype(np.float32)},
        "expected bytes",
    ),
    "ids of floats": (
        "rows",
        {},
        {"indices": lambda a: a["indices"].astype(np.float32)},
        "float32 ids",
    ),
    "ids beyond h": (
        "rows",
        {},
        {"indices": lambda a: with_entry(a["indices"], 0, H)},
        "expected ids below 32",
    ),
    "scales of doubles": (
        "int8",
        {},
        {"scales": lambda a: a["scales"].astype(np.float64)},
        "scales for 300 rows",
    ),
    "NaN among scales": (
        "int8",
        {},
        {"scales": lambda a: with_entry(a["scales"], 0, np.nan)},
        "NaN",
    ),
    "an unknown array": ("rows", {}, {"more": lambda a: np.ones(3)}, "arrays \\['indices'"),
    "rows as text": ("packed", {"rows": "300"}, {}, "rows: '300'; expected int"),
    "rows null": ("packed", {"rows": None}, {}, "rows: None; expected int"),
    "rows true": ("packed", {"rows": True}, {}, "rows: True; expected int"),
    "rows below 0": ("packed", {"rows": -300}, {}, "rows: -300; expected 1 or more"),
    "rows beyond all": ("packed", {"rows": 10**40}, {}, "a huge number"),
    "made is a list": ("packed", {"made": []}, {}, "made: \\[\\]; expected dict"),
    "another similarity": (
        "packed",
        {"made": {"similarity": "\x1b[31m"}},
        {},
        "expected cosine or dot",
    ),
    "a setting too many": ("packed", {"surprise": 1}, {}, "'surprise' is unknown"),
}


@pytest.mark.parametrize("case", CODES)
def test_forged_codes_are_one_line(forms, model, tmp_path, case):
    form, settings, arrays, message = CODES[case]
    path = forged(forms, tmp_path, form, settings, arrays)
    with pytest.raises(InputError, match=message) as error:
        CompressedIndex(model.projection, load_codes(path))
    assert str(error.value).isprintable()
    code, out, err = call("index", path, "-o", tmp_path / "out")
    if code:  # Without a model other latents are no fault.
        lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
        assert (code, out, len(lines)) == (1, "", 1) and "Traceback" not in err
    else:
        assert settings == {"latents": 64} or settings == {"latents": 33}


def test_damaged_ids_in_packed_rows_read_nothing_out_of_bounds(model, tmp_path):
    """h = 33 takes 6 bits, which can say 63."""
    other = CompresSAE(D, 33, 4, seed=0)
    other.settings = {"recipe": "pursuit"}
    table = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
    codes = make_codes(other, table)
    codes.data[:-8] = 255
    with pytest.raises(InputError, match="latent 63 of 33"):
        CompressedIndex(other.projection, codes)
    index = CompressedIndex(other.projection, codes, lists=False)
    hits = index.search(table[:3], 5)
    assert np.isfinite(hits.scores).all()


LISTS = {
    "bounds of fewer lists": ("bounds", lambda a: a[:-2].copy()),
    "bounds that fall": ("bounds", lambda a: a[:, ::-1].copy()),
    "bounds beyond the list": ("bounds", lambda a: a + np.uint32(1 << 31)),
    "rows of floats": ("docs", lambda a: a.astype(np.float32)),
    "values of 16 bits": ("values", lambda a: a.astype(np.int16)),
    "a step of NaN": ("scale", lambda a: with_entry(a, 0, np.nan)),
    "a scale of float32": ("scale", lambda a: a.astype(np.float32)),
    "ids as uint64": ("ids", lambda a: a.astype(np.uint64)),
    "ids of floats": ("ids", lambda a: a.astype(np.float64)),
    "ids below 0": ("ids", lambda a: a - 5),
    "ids out of order": ("ids", lambda a: a[::-1].copy()),
    "factors of float32": ("factors", lambda a: a.astype(np.float32)),
    "factors not finite": ("factors", lambda a: with_entry(a, 0, np.nan)),
}


def forge_segment(path, name, change):
    """Change an array of a catalogue's only segment, and make all checksums right."""
    (segment,) = (path / "segments").iterdir()
    artifact = load_artifact(segment, "segment")
    tensors = {s: {k: np.array(v) for k, v in t.items()} for s, t in artifact.tensors.items()}
    tensors["lists"][name] = change(tensors["lists"][name])
    save_artifact(segment, "segment", artifact.settings, tensors)
    (version,) = (path / "versions").iterdir()
    content = json.loads(version.read_text())["version"]
    config = hashlib.sha256((segment / "config.json").read_bytes()).hexdigest()
    content["segments"][0]["config"] = config
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    version.write_text(json.dumps({"sha256": digest, "version": content}))


@pytest.fixture
def lists(tmp_path):
    rows = sparse.random_array((N, H), density=0.2, rng=np.random.default_rng(0), dtype=np.float32)
    settings = dict(ids=np.arange(N) * 3 + 3, similarity="cosine")
    return Catalogue.create(tmp_path / "lists", None, rows, **settings)


@pytest.mark.parametrize("case", LISTS)
def test_forged_lists_are_one_line(lists, case):
    forge_segment(lists.path, *LISTS[case])
    with pytest.raises(InputError, match="posting lists do not fit"):
        Catalogue.open(lists.path)


@pytest.mark.parametrize("beyond", [N, 65_535], ids=["next", "last of 16 bits"])
def test_rows_beyond_the_last_are_never_hits(lists, beyond):
    """Row numbers are not read on opening: a search looks at none that is no row."""
    forge_segment(lists.path, "docs", lambda a: with_entry(a, slice(0, 2), beyond))
    catalogue = Catalogue.open(lists.path)
    query = sparse.csr_array(np.eye(1, H, dtype=np.float32))  # The latent of the first list.
    for K in (1, 10, 30, N + 5):  # As candidates, and where sums cannot decide.
        assert set(catalogue.search(query, K).ids[0].tolist()) <= {-1, *range(3, 3 * N + 1, 3)}
    with pytest.raises(InputError, match="docs are not those of the codes"):
        Catalogue.open(lists.path, verify=True)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("docs", lambda a: with_entry(a, slice(0, 2), a[1::-1])),
        ("docs", lambda a: with_entry(a, 1, a[0])),
        ("values", lambda a: a[::-1].copy()),
        ("scale", lambda a: with_entry(a, 1, 1e-6)),
        ("scale", lambda a: with_entry(a, 0, 2 * a[0])),
        ("factors", lambda a: 2 * a),
    ],
    ids=[
        "out of order",
        "repeated",
        "other values",
        "a false norm",
        "a false step",
        "false factors",
    ],
)
def test_lists_that_are_not_those_of_the_codes_are_found_by_verify(lists, name, change):
    """A search of them ends in hits, whatever they are worth."""
    forge_segment(lists.path, name, change)
    query = sparse.random_array((1, H), density=0.5, rng=np.random.default_rng(1))
    assert Catalogue.open(lists.path).search(query, 5).ids.shape == (1, 5)
    with pytest.raises(InputError, match="are not those of the codes"):
        Catalogue.open(lists.path, verify=True)
    code, out, err = call("info", lists.path, "--verify")
    assert (code, out, err.count("\n")) == (1, "", 1)


CONFIGS = {
    "a file above": lambda c: c["files"].update({"../x.safetensors": c["files"].popitem()[1]}),
    "a file elsewhere": lambda c: c["files"].update(
        {"/etc/x.safetensors": c["files"].popitem()[1]}
    ),
    "a list": lambda c: c.update(files=[]),
    "shapes below 0": lambda c: next(iter(c["files"].values()))["tensors"].update(a=["int8", [-1]]),
    "bytes as text": lambda c: next(iter(c["files"].values())).update(bytes="7"),
    "no kind": lambda c: c.pop("kind"),
    "kind null": lambda c: c.update(kind=None),
    "format text": lambda c: c.update(format_version="2"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_forged_configs_are_one_line(forms, tmp_path, case):
    path = forged(forms, tmp_path, "packed")
    content = json.loads((path / "config.json").read_text())
    CONFIGS[case](content)
    (path / "config.json").write_text(json.dumps({**content, "checksum": None}))
    with pytest.raises(InputError, match=r"config\.json: damaged or not of compressae"):
        load_codes(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "NaN", "", "[]", "1" * 5000])
@pytest.mark.parametrize("place", ["config", "header"])
def test_text_that_is_no_config_is_one_line(forms, tmp_path, text, place):
    path = forged(forms, tmp_path, "packed")
    if place == "config":
        (path / "config.json").write_text(text)
        message = r"config\.json: damaged"
    else:
        raw = text.encode()
        (tmp_path / "t.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
        message = r"t\.safetensors"
    with pytest.raises(InputError, match=message):
        load_codes(path) if place == "config" else open_embeddings(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [-1, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1.0, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1, 2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [1, 2], "data_offsets": [0]},
        {"dtype": "F32", "shape": [0, 1 << 40, 1 << 40], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1] * 40, "data_offsets": [0, 4]},
        {"dtype": None, "shape": [1, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "12", "data_offsets": [0, 8]},
        [],
        None,
    ],
)
def test_forged_headers_are_one_line(tmp_path, entry):
    raw = json.dumps({"x": entry}).encode()
    path = tmp_path / "t.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    with pytest.raises(InputError, match=r"t\.safetensors"):
        open_embeddings(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_links_are_refused_and_not_waited_for(forms, lists, tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    os.mkfifo(tmp_path / "x.npz")
    for name, read in (
        ("x.npy", lambda path: open_embeddings(path)),
        ("x.npz", lambda path: call_or_raise("search", lists.path, path)),
    ):
        with pytest.raises(InputError, match="no plain file|no sparse rows"):
            read(tmp_path / name)
    path = forged(forms, tmp_path, "packed")
    for make in (os.mkfifo, lambda file: os.symlink("/dev/zero", file)):
        (path / "config.json").unlink()
        make(path / "config.json")
        with pytest.raises(InputError, match=r"config\.json"):
            load_codes(path)
    os.symlink(tmp_path / "round", tmp_path / "round")
    for command in ("info", "search"):
        arguments = [tmp_path / "round"] + ([tmp_path / "x.npy"] if command == "search" else [])
        code, out, err = call(command, *arguments)
        assert code == 1 and out == "" and "Traceback" not in err


def call_or_raise(*arguments):
    code, _, err = call(*arguments)
    assert code == 1 and err.count("\n") == 1
    raise InputError(err.strip())


def test_a_short_text_does_not_stand_for_a_huge_one(tmp_path):
    """Aliases of YAML, and a bomb of gzip: refused within 300 MB."""
    aliases = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (tmp_path / "settings.yaml").write_text(aliases)
    (tmp_path / "labels.gz").write_bytes(gzip.compress(bytes(1 << 28)))
    with pytest.raises(InputError, match="which is no text"):
        read_labels(tmp_path / "labels.gz")
    code = (
        "import resource, sys; from compressae.cli import main; "
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60)); main(sys.argv[1:])"
    )
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    command = [
        sys.executable,
        "-c",
        code,
        "evaluate",
        tmp_path / "x.npy",
        "-o",
        "out",
        "--settings",
    ]
    done = subprocess.run([*command, tmp_path / "settings.yaml"], capture_output=True, text=True)
    assert done.returncode == 2 and "an alias, by which a short file" in done.stderr


def test_models_are_checked(model, tmp_path):
    model.save(tmp_path / "model")
    artifact = load_artifact(tmp_path / "model", "model")
    held = {name: np.array(array) for name, array in artifact.tensors["model"].items()}
    for settings, arrays, message in (
        ({"latents": 33}, {}, "expected"),
        ({"nonzeros": 33}, {}, "33 nonzeros of 32 latents"),
        ({"nonzeros": 0}, {}, "nonzeros: 0; expected 1 or more"),
        ({"dim": 8.0}, {}, "dim: 8.0; expected int"),
        ({}, {"decoder": held["decoder"].astype(np.float64)}, "float64"),
        ({}, {"decoder": held["decoder"].astype(np.int8)}, "int8"),
        ({}, {"decoder": np.full_like(held["decoder"], np.nan)}, "NaN"),
    ):
        settings = {**artifact.settings, **settings}
        save_artifact(tmp_path / "model", "model", settings, {"model": {**held, **arrays}})
        with pytest.raises(InputError, match=message):
            Projection.load(tmp_path / "model")


def test_versions_are_checked(lists):
    (path,) = (lists.path / "versions").iterdir()
    content = json.loads(path.read_text())["version"]
    assert content == json.loads(json.dumps(asdict(lists.versions()[0])))
    for change, message in (
        ({"number": 2}, "damaged or not of compressae"),
        ({"rows": -1}, "rows: -1"),
        ({"segments": []}, "damaged or not of compressae"),
        ({"segments": content["segments"] * 2}, "damaged or not of compressae"),
        ({"segments": [{**content["segments"][0], "name": "../../x"}]}, "expected a text like"),
        ({"segments": [{**content["segments"][0], "rows": 7}]}, "300 rows; expected 7"),
        ({"removals": [{"name": "x", "rows": 1, "bytes": 1, "sha256": "0" * 64}]}, "a text like"),
        ({"catalogue": "0" * 32}, "was replaced by another catalogue"),
        ({"next_id": 1 << 70}, "a huge number"),
    ):
        changed = {**content, **change}
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({"sha256": digest, "version": changed}))
        with pytest.raises(InputError, match=message):
            Catalogue.open(lists.path)


def test_huge_numbers_tie_as_they_should():
    """Values and queries near 1e37 together."""
    rows = sparse.csr_array(np.array([[1e37, 0], [0, 1e37], [1e37, 0]], np.float32))
    hits = InvertedIndex(rows, list_type="float32").search(
        sparse.csr_array(np.array([[1.0, 0.0]], np.float32)), 3
    )
    assert hits.ids.tolist() == [[0, 2, 1]]


def test_memory_is_bounded_before_anything_is_allocated(forms, tmp_path):
    """Codes that claim 3·10⁸ rows take no gigabyte before they are refused."""
    path = forged(
        forms, tmp_path, "float32", {"rows": 300_000_000},
        {"indices": lambda a: a["indices"][:0], "values": lambda a: a["values"][:0]},
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="0 indices for 300000000 rows"):
        load_codes(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB.

"""Every command as a user calls it."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import torch
from commands import call, refused, succeed

from compressae.cli import main
from compressae.retrieval import Catalogue

SMALL = ["--latents", "64", "--nonzeros", "4", "--steps", "12", "--batch", "64"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table and everything the commands make of it."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((30, 16))
    rows = centres[rng.integers(0, 30, 400)] + 0.3 * rng.standard_normal((400, 16))
    np.save(folder / "table.npy", rows.astype(np.float32))
    np.save(folder / "queries.npy", rows[:5].astype(np.float32))
    succeed("train", folder / "table.npy", "-o", folder / "model", "--hold-out", 120, *SMALL)
    succeed("encode", folder / "table.npy", "-m", folder / "model", "-o", folder / "codes")
    succeed("index", folder / "codes", "-m", folder / "model", "-o", folder / "index")
    succeed("index", folder / "codes", "-o", folder / "lists")
    return folder


def test_train_says_where_the_model_is(made, tmp_path):
    out = succeed("train", made / "table.npy", "-o", tmp_path / "model", "--json", *SMALL)
    result = json.loads(out)
    assert result["latents"] == 64 and result["nonzeros"] == 4 and result["dim"] == 16
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # No checkpoint is left.


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_search_on_a_gpu_that_is_not_there_is_refused(made, tmp_path):
    for index, queries in (("index", "queries.npy"), ("lists", "codes")):
        refused(tmp_path, "device 'cuda': torch finds no GPU here; expected cpu or auto",
                "search", made / index, made / queries, "--device", "cuda")  # fmt: skip


def test_search_finds_each_query_itself_and_writes_the_same_hits(made, tmp_path):
    command = ["search", made / "index", made / "queries.npy", "-k", 3]
    lines = [json.loads(line) for line in succeed(*command, "--json").splitlines()]
    found = np.array([line["ids"] for line in lines])
    assert found.shape == (5, 3) and (found == np.arange(5)[:, None]).any(axis=1).mean() >= 0.8
    succeed(*command, "-o", tmp_path / "hits.npz")
    with np.load(tmp_path / "hits.npz") as hits:
        np.testing.assert_array_equal(hits["ids"], found)
        assert hits["scores"].dtype == np.float32
    assert succeed(*command).startswith(f"0: {found[0, 0]} ")
    for scoring in ("sparse", "reconstructed"):
        assert len(succeed(*command, "--scoring", scoring).splitlines()) == 5
    wide = succeed(*command, "--scoring", "sparse", "--query-nonzeros", 32, "--json")
    index = Catalogue.open(made / "index").index
    expected = index.search(np.load(made / "queries.npy"), 3, "sparse", query_nonzeros=32)
    assert [json.loads(line)["ids"] for line in wide.splitlines()] == expected.ids.tolist()
    assert succeed(*command, "--device", "cpu") == succeed(*command)
    everything = succeed(*command, "--candidates", "all", "--json")
    assert json.loads(everything.splitlines()[0])["ids"][0] == found[0, 0]


def test_an_index_of_embeddings_is_that_of_their_codes(made, tmp_path):
    succeed("index", made / "table.npy", "-m", made / "model", "-o", tmp_path / "index")
    files = [path.relative_to(made / "index") for path in (made / "index").rglob("*.safetensors")]
    assert sorted(file.stem for file in files) == ["codes", "lists", "model", "rows"]
    for file in files:
        assert (tmp_path / "index" / file).read_bytes() == (made / "index" / file).read_bytes()


def test_an_index_without_a_model_takes_sparse_queries(made, tmp_path):
    hits = succeed("search", made / "lists", made / "codes", "-k", 1, "--json")
    assert len(hits.splitlines()) == 400
    matrix = scipy.sparse.random_array((2, 64), density=0.3, rng=np.random.default_rng(0))
    scipy.sparse.save_npz(tmp_path / "queries.npz", matrix.tocsr())
    assert len(succeed("search", made / "lists", tmp_path / "queries.npz").splitlines()) == 2
    succeed("encode", made / "table.npy", "-m", made / "model", "-o", tmp_path / "codes",
            "--residual-bytes", 2)  # fmt: skip
    code, _, err = call("index", tmp_path / "codes", "-o", tmp_path / "index")
    assert (
        code == 0 and err == "warning: residual codes are left out; give -m to search with them\n"
    )
    code, _, err = call("search", made / "lists", made / "queries.npy")
    assert code == 1 and "no sparse rows" in err


def test_encode_takes_every_form_of_codes(made, tmp_path):
    command = ["encode", made / "table.npy", "-m", made / "model"]
    np.save(tmp_path / "weights.npy", np.linspace(0, 1, 400))
    budget = ["--budget", "5 B/row", "--importance", tmp_path / "weights.npy"]
    np.save(tmp_path / "letters.npy", np.full(400, "a"))
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "several.npz", np.ones(400))
    expected = {
        "int8": (["--values", "int8", "--no-refit"], 4 * (2 + 1) + 4),
        "more": (
            ["--values", "int4", "--nonzeros", 6, "--residual-bytes", 3],
            1 + 3 + 6 * 10 / 8 + 0.5,
        ),
        "budget": (budget, 5),
        "like": (["--like", made / "codes"], 5),
        "like budget": (["--like", tmp_path / "budget"], 5),
    }
    for name, (options, row) in expected.items():
        out = succeed(*command, "-o", tmp_path / name, "--json", *options)
        assert json.loads(out)["bytes_an_item"] == pytest.approx(row, abs=0.05)
        assert json.loads(succeed("info", tmp_path / name, "--json"))["kind"] == "codes"
    same = (tmp_path / "like" / "packed.safetensors").read_bytes()
    assert same == (made / "codes" / "packed.safetensors").read_bytes()
    for options, said in [
        (["--no-refit"], "always fitted"),
        (["--budget", "2 B/row"], "one nonzero a row takes"),
        (["--budget", "much"], "expected bytes above 0"),
        (["--importance", tmp_path / "weights.npy"], "importance without a budget"),
        (
            ["--budget", "5 B/row", "--importance", made / "queries.npy"],
            "finite numbers of 0 or more",
        ),
        (
            ["--budget", "5 B/row", "--importance", tmp_path / "no.npy"],
            "a .npy of one number a row",
        ),
        (["--budget", "5 B/row", "--importance", tmp_path / "letters.npy"], "one number a row"),
        (["--budget", "5 B/row", "--importance", tmp_path / "empty.npy"], "one number a row"),
        (["--budget", "5 B/row", "--importance", tmp_path / "several.npz"], "one number a row"),
        (["--like", made / "index"], "is catalogue; expected"),
        (["--like", tmp_path / "int8"], "holds no PackedCodes"),
        (["--residual-bytes", 17], "17 residual bytes: expected 0 to 16"),
        (["--nonzeros", 65], "65 nonzeros: expected 1 to 64"),
    ]:
        refused(tmp_path, said, *command, "-o", tmp_path / "out", *options)


def test_info_of_every_artifact(made):
    for name in ("model", "codes", "index", "lists", "table.npy"):
        result = json.loads(succeed("info", made / name, "--json"))
        kinds = {"index": "catalogue", "lists": "catalogue", "table.npy": "embeddings"}
        assert result["kind"] == kinds.get(name, name)
        held = result["versions"][0]["segments"][0] if "versions" in result else result
        assert held["bytes"] > 0
    assert "kind: model" in succeed("info", made / "model")


def test_every_command_has_help():
    listed = succeed("--help")
    for name, command in ((n, main.get_command(None, n)) for n in main.list_commands(None)):
        assert name in listed
        assert len(succeed(name, "--help").splitlines()) > 5
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{name} {parameter.name}"


def bad_tables(folder):
    """The tables that no command may take, by what is said of them."""
    good = np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32)
    tables = {"all zeros": good.copy(), "NaN": good.copy(), "infinity": good.copy()}
    tables["all zeros"][7], tables["NaN"][7, 3], tables["infinity"][7, 3] = 0, np.nan, np.inf
    tables |= {"1-d": good[0], "empty": good[:0], "int64": good.astype(np.int64)}
    for said, table in tables.items():
        np.save(folder / "bad.npy", table)
        yield said
    (folder / "bad.npy").write_bytes(b"\x93NUMPY truncated")
    yield "not a whole .npy file"
    (folder / "bad.npy").unlink()
    yield "no such file"


@pytest.mark.parametrize("command", ["train", "encode", "index", "evaluate", "search", "info"])
def test_bad_tables_are_refused_by_every_command(made, tmp_path, command):
    bad, out = tmp_path / "bad.npy", tmp_path / "out"
    model = ["-m", made / "model", "-o", out]
    arguments = {
        "train": [bad, "-o", out, *SMALL],
        "encode": [bad, *model],
        "index": [bad, *model],
        "evaluate": [bad, *model, "--queries", 5],
        "search": [made / "index", bad],
        "info": [bad],
    }[command]
    for said in bad_tables(tmp_path):
        if command == "info" and said in ("all zeros", "NaN", "infinity"):
            continue  # It reads the header, not the rows.
        refused(tmp_path, said, command, *arguments)
    np.save(bad, np.ones((40, 15), np.float32))
    if command in ("encode", "index", "search", "evaluate"):
        refused(tmp_path, "15 columns", command, *arguments)


@pytest.mark.parametrize("damage", ["truncated", "newer", "missing", "other kind"])
def test_damaged_artifacts_are_refused_by_every_command(made, tmp_path, damage):
    for name in ("model", "codes", "index"):
        shutil.copytree(made / name, tmp_path / name)
        stem = {"model": "model", "codes": "packed", "index": "rows"}[name]
        (file,) = (tmp_path / name).rglob(f"{stem}.safetensors")
        config = tmp_path / name / "config.json"
        if damage == "truncated":
            file.write_bytes(file.read_bytes()[:-10])
        elif damage == "missing":
            file.unlink()
        else:
            changes = {"newer": {"format_version": 99}, "other kind": {"kind": "checkpoint"}}
            unchecked = {"checksum": None, **changes[damage]}
            config.write_text(json.dumps(json.loads(config.read_text()) | unchecked))
    said = {"newer": "upgrade compressae", "other kind": "is checkpoint; expected"}
    said = said.get(damage, damage)
    table, out = made / "table.npy", tmp_path / "out"
    refused(tmp_path, said, "encode", table, "-m", tmp_path / "model", "-o", out)
    refused(tmp_path, said, "index", tmp_path / "codes", "-m", made / "model", "-o", out)
    refused(
        tmp_path, said, "evaluate", table, "-m", tmp_path / "model", "-o", out, "--queries", 120
    )
    refused(tmp_path, said, "search", tmp_path / "index", made / "queries.npy")
    if damage != "other kind":
        refused(tmp_path, said, "info", tmp_path / "codes")


@pytest.mark.parametrize("command", ["train", "encode", "index", "evaluate", "search"])
def test_places_that_cannot_be_written_are_refused_first(made, tmp_path, command):
    model = ["-m", made / "model"]
    arguments = {
        "train": [made / "table.npy", *SMALL],
        "encode": [made / "table.npy", *model],
        "index": [made / "table.npy", *model],
        "evaluate": [made / "table.npy", *model],
        "search": [made / "index", made / "queries.npy"],
    }[command]
    refused(tmp_path, "does not exist", command, *arguments, "-o", tmp_path / "no" / "out")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    said = "could not be written" if command == "search" else "choose another name"
    refused(tmp_path, said, command, *arguments, "-o", tmp_path / "letters")


def test_usage_errors(made, tmp_path):
    out = ["-o", tmp_path / "out"]
    refused(tmp_path, "expected auto, cpu, cuda", "train", made / "table.npy", *out, *SMALL,
            "--device", "abacus")  # fmt: skip
    for command in ("encode", "index"):
        refused(tmp_path, "expected auto, cpu, cuda", command, made / "table.npy", *out,
                "-m", made / "model", "--device", "abacus")  # fmt: skip
    refused(tmp_path, "nonzeros = 70: expected", "train", made / "table.npy", *out,
            "--latents", 64, "--nonzeros", 70)  # fmt: skip
    refused(tmp_path, "need a model", "index", made / "table.npy", *out)
    refused(tmp_path, "expected a number or 'all'", "search", made / "index",
            made / "queries.npy", "--candidates", "many")  # fmt: skip
    refused(tmp_path, "65 query nonzeros", "search", made / "index", made / "queries.npy",
            "--query-nonzeros", 65)  # fmt: skip
    refused(tmp_path, "options of codes are for embeddings", "index", made / "codes", *out,
            "-m", made / "model", "--budget", "8 B/row")  # fmt: skip
    refused(tmp_path, "lower --queries", "evaluate", made / "table.npy", *out)
    refused(tmp_path, "expected a number or 'all'", "search", made / "index",
            made / "queries.npy", "--candidates", "²")  # fmt: skip
    refused(tmp_path, "a folder stands there", "search", made / "index",
            made / "queries.npy", "-o", ".")  # fmt: skip
    refused(tmp_path, "expected auto, cpu, cuda", "search", made / "index",
            made / "queries.npy", "--device", "abacus")  # fmt: skip
    other = tmp_path / "other"
    succeed("train", made / "table.npy", "-o", other, "--seed", 1, *SMALL)
    refused(
        tmp_path, "give the model that encoded them", "index", made / "codes", "-m", other, *out
    )


def test_torch_without_memory_is_one_line(made, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory:\nyou tried 64000000000")

    monkeypatch.setattr("compressae.cli.train.train_model", fail)
    refused(tmp_path, "use fewer latents", "train", made / "table.npy", "-o", tmp_path / "out")


def test_a_reader_that_has_enough_and_a_full_disk(made, tmp_path):
    np.save(tmp_path / "many.npy", np.tile(np.load(made / "table.npy"), (20, 1)))
    command = [sys.executable, "-m", "compressae", "search", str(made / "index")]
    process = subprocess.Popen(
        [*command, str(tmp_path / "many.npy")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline().startswith(b"0: ")
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 1
    process.stderr.close()
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*command, str(tmp_path / "many.npy")], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 1 and ended.stderr == "Error: No space left on device\n"


def test_ctrl_c_keeps_a_checkpoint_and_resume_ends_in_the_same_model(made, tmp_path):
    settings = [*SMALL[:4], "--steps", "100", "--batch", "64"]
    succeed("train", made / "table.npy", "-o", tmp_path / "whole", *settings)
    interrupted = ["train", str(made / "table.npy"), "-o", str(tmp_path / "model"), *settings]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *interrupted], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline().strip() == "step 20"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        err.strip().splitlines()[-1] == "Error: stopped; repeat the command with --resume to go on"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.checkpoint", "whole"]
    succeed(*interrupted, "--resume")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "whole"]
    one, two = (tmp_path / name / "model.safetensors" for name in ("whole", "model"))
    assert one.read_bytes() == two.read_bytes()


#: The command with a pause at step 20, so that the signal surely comes before the end.
SLOW = """
import sys, time
import compressae.cli.train as command
real = command.training_details
def details(now):
    if now.step == 20:
        print("step 20", file=sys.stderr, flush=True)
        time.sleep(2)
    return real(now)
command.training_details = details
from compressae.cli import main
main()
"""

"""Models and tables on the Hugging Face Hub: a server of the test answers in its place."""

import io
import json
from hashlib import sha1

import numpy as np
import pytest
import yaml
from commands import call, succeed
from servers import fake_hub, serving

from compressae import CompresSAE, InputError, TrainConfig, load_sample, open_embeddings, train
from compressae.card import model_card
from compressae.retrieval.io.hub import HubFolder, as_hub_url

hub = pytest.importorskip("huggingface_hub", reason="needs pip install 'compressae[hub]'")


@pytest.fixture(scope="module")
def model():
    items = load_sample().embeddings.subset(np.arange(1000))
    return train(items, TrainConfig(latents=64, nonzeros=8, steps=10))


@pytest.fixture
def at(monkeypatch, tmp_path):
    """Point huggingface_hub to a URL, with a cache of its own."""

    def point(url):
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")

    return point


@pytest.fixture
def server(at):
    """({owner/name: {revision: {file: bytes}}}, requests) of a Hub that huggingface_hub asks."""
    repos, requests = {}, []
    with serving(fake_hub(repos, requests)) as url:
        at(url)
        yield repos, requests


def test_a_model_comes_back_from_the_hub(server, model):
    repos, _ = server
    url = model.push_to_hub("anna/shoes", license="mit", commit_message="First")
    assert url.startswith("http") and "/anna/shoes/commit/" in url
    assert set(repos["anna/shoes"]["main"]) == {"README.md", "config.json", "model.safetensors"}
    for name in ("anna/shoes", "hf://anna/shoes", "hf://models/anna/shoes"):
        loaded = CompresSAE.from_pretrained(name)
        assert loaded.model_id == model.model_id and loaded.settings == model.settings


def test_the_cache_answers_where_the_hub_cannot_be_reached(server, model, at):
    model.push_to_hub("anna/shoes")
    CompresSAE.from_pretrained("anna/shoes")
    at("http://127.0.0.1:9")
    assert CompresSAE.from_pretrained("anna/shoes").model_id == model.model_id
    with pytest.raises(InputError, match="hf://anna/boots: .*try again") as caught:
        CompresSAE.from_pretrained("anna/boots")
    assert "\n" not in str(caught.value)


def test_revisions(server, model):
    other = CompresSAE(8, 32, 4)
    model.push_to_hub("anna/shoes")
    other.push_to_hub("anna/shoes", branch="small")
    assert CompresSAE.from_pretrained("anna/shoes").model_id == model.model_id
    assert CompresSAE.from_pretrained("anna/shoes", revision="small").model_id == other.model_id
    assert CompresSAE.from_pretrained("hf://anna/shoes@small").model_id == other.model_id
    commit = sha1(b"small").hexdigest()
    assert CompresSAE.from_pretrained("anna/shoes", commit).model_id == other.model_id
    with pytest.raises(InputError, match="no such revision; expected a branch, tag or commit"):
        CompresSAE.from_pretrained("anna/shoes", "large")


def test_a_folder_of_a_repository(server, model):
    repos, _ = server
    model.push_to_hub("anna/shoes")
    files = repos["anna/shoes"]["main"]
    repos["anna/both"] = {"main": {f"sparse/{name}": files[name] for name in files}}
    assert CompresSAE.load("hf://anna/both/sparse").model_id == model.model_id
    with pytest.raises(InputError, match="hf://anna/both: holds no config.json"):
        CompresSAE.load("hf://anna/both")


def test_the_command_line_takes_a_model_of_the_hub(server, model, tmp_path):
    model.push_to_hub("anna/shoes")
    items = load_sample().embeddings.subset(np.arange(200))
    np.save(tmp_path / "items.npy", items.to_array())
    out = succeed("encode", tmp_path / "items.npy", "-m", "hf://anna/shoes", "-o", tmp_path / "c")
    assert "rows: 200" in out
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["settings"]["model_id"] == model.model_id
    assert "latents: 64" in succeed("info", "hf://anna/shoes")
    code, _, err = call(
        "encode", tmp_path / "items.npy", "-m", "hf://anna/no", "-o", tmp_path / "d"
    )
    assert code == 1 and "Error: hf://anna/no: no such repository" in err
    assert "Traceback" not in err and not (tmp_path / "d").exists()


def test_a_table_of_the_hub_streams(server):
    pytest.importorskip("fsspec", reason="needs pip install 'compressae[remote]'")
    repos, _ = server
    items = load_sample().embeddings.subset(np.arange(50))
    file = io.BytesIO()
    np.save(file, items.to_array())
    repos["anna/items"] = {"main": {"items.npy": file.getvalue()}}
    table = open_embeddings("hf://anna/items/items.npy")
    np.testing.assert_array_equal(table.to_array(), items.to_array())


@pytest.mark.parametrize("status", [401, 403])
def test_no_permission_is_said_to_be_that(at, model, status):
    with serving(fake_hub({}, [], status)) as url:
        at(url)
        for act in (lambda: model.push_to_hub("anna/shoes"), lambda: CompresSAE.load("hf://a/b")):
            with pytest.raises(InputError, match="no permission; log in: hf auth login") as caught:
                act()
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("nowhere", None, "nowhere: no such folder; expected one, or owner/name of the Hub"),
        ("a/b/c", None, "a/b/c: no such folder"),
        ("hf://a/b@v1", "v2", "revision 'v2' beside the one of the URL"),
    ],
)
def test_names_that_are_none(name, revision, said):
    with pytest.raises(InputError, match=said):
        CompresSAE.from_pretrained(name, revision)


def test_a_folder_has_no_revisions(model, tmp_path):
    model.save(tmp_path / "m")
    assert CompresSAE.from_pretrained(tmp_path / "m").model_id == model.model_id
    with pytest.raises(InputError, match="a folder, which has no revisions"):
        CompresSAE.from_pretrained(tmp_path / "m", "v1")


@pytest.mark.parametrize("repo", ["shoes", "a/b/c", "anna/", "anna/sho es"])
def test_a_repository_has_an_owner_and_a_name(server, model, repo):
    with pytest.raises(InputError, match="expected owner/name"):
        model.push_to_hub(repo)
    assert server[1] == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hf://a/b", HubFolder("a/b")),
        ("hf://a/b/", HubFolder("a/b")),
        ("hf://a/b@refs/pr/3/x/y", HubFolder("a/b", "refs/pr/3", "x/y")),
        ("hf://a/b@feat%2Fx", HubFolder("a/b", "feat/x")),
        ("hf://datasets/a/b", None),
        ("s3://a/b", None),
    ],
)
def test_urls(url, expected):
    assert HubFolder.of(url) == expected
    if expected is not None:
        assert HubFolder.of(expected.url) == expected and as_hub_url(url) == expected.url


def test_a_folder_stays_in_its_repository():
    with pytest.raises(InputError, match="leads out of the repository"):
        CompresSAE.load("hf://anna/shoes/../../other")


# The card.


def front(card):
    return yaml.safe_load(card.split("---")[1])


@pytest.fixture
def report(model):
    metrics = {"recall@10": {"mean": 0.91234, "low": 0.9, "high": 0.92}}
    return {
        "about": {
            "table": "/home/anna/secret/items.npy",
            "items": 1900,
            "queries": 100,
            "similarity": "cosine",
            "model": {"model_id": model.model_id},
        },
        "verdict": ["At 32 B compressae keeps 91 %."],
        "metrics": ["recall@10"],
        "methods": [
            {"label": "ours|32", "code_bytes": 32.0, "error": None, "metrics": metrics},
            {"label": "scann", "error": "not installed", "metrics": {}},
        ],
    }


@pytest.mark.parametrize("form", ["dict", "file", "folder"])
def test_the_card_holds_measured_figures(model, report, tmp_path, form):
    (tmp_path / "report.json").write_text(json.dumps(report))
    given = {"dict": report, "file": tmp_path / "report.json", "folder": tmp_path}[form]
    card = model_card(model.projection, "anna/shoes", given, "mit")
    assert front(card)["license"] == "mit" and front(card)["library_name"] == "compressae"
    assert "| ours\\|32 | 32 | 0.912 |" in card and "keeps 91 %" in card
    assert "1,900 items of items.npy with 100 queries" in card
    assert "secret" not in card and "scann" not in card
    assert model.model_id in card and "- recipe: pursuit" in card and "- rows: 1000" in card


def test_the_card_invents_nothing(model):
    card = model_card(model.projection, "anna/shoes")
    assert "license" not in front(card) and "No evaluation came with the model" in card
    assert "|" not in card and "recall" not in card
    assert "not trained" in model_card(CompresSAE(8, 32, 4).projection, "a/b")


def test_the_report_of_another_model_is_refused(server, model, report, tmp_path):
    report["about"]["model"]["model_id"] = "0" * 16
    with pytest.raises(InputError, match="of model 0000000000000000, but this is model"):
        model.push_to_hub("anna/shoes", report=report)
    for wrong in ({}, {"about": {}}, tmp_path / "none.json"):
        with pytest.raises(InputError, match="no report"):
            model.push_to_hub("anna/shoes", report=wrong)
    assert server[1] == []


def test_the_cards_python_loads_the_model(server, model):
    model.push_to_hub("anna/shoes")
    card = server[0]["anna/shoes"]["main"]["README.md"].decode()
    items = load_sample().embeddings.subset(np.arange(300)).to_array()
    names = {"items": items, "queries": items[:3]}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert names["hits"].ids[:, 0].tolist() == [0, 1, 2]

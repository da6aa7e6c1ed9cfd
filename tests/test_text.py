"""Codes in a pipeline of sentence-transformers, with a transformer made here."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from compressae import CompresSAE, InputError, TrainConfig, compress, encode, train
from compressae.retrieval import Catalogue, CompressedIndex, InvertedIndex
from compressae.retrieval.errors import MissingExtraError
from compressae.text import SparseCoder, sparse_encoder, stock_autoencoder

WORDS = [
    "red",
    "green",
    "blue",
    "black",
    "shoe",
    "boot",
    "hat",
    "coat",
    "small",
    "large",
    "old",
    "new",
]
D, H, K = 16, 64, 4


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip(
        "sentence_transformers",
        reason="needs sentence-transformers, 230 MB (pip install 'compressae[text]')",
    )


@pytest.fixture(scope="module")
def encoder(library, tmp_path_factory):
    """A sentence encoder of one random layer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    special = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    ids = {word: i for i, word in enumerate([*special.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(ids), intermediate_size=32, **shape)).save_pretrained(
        folder
    )
    return library.SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 4)) for _ in range(400)]


@pytest.fixture(scope="module")
def rows(encoder, texts):
    return encoder.encode(texts)


@pytest.fixture(scope="module", params=["cosine", "dot"])
def model(request, rows):
    settings = {"latents": H, "nonzeros": K, "steps": 3, "similarity": request.param}
    return train(rows, TrainConfig(**settings))


@pytest.fixture(scope="module")
def pipeline(encoder, model, rows):
    return sparse_encoder(encoder, model, rows)


def coded(module, rows, task=None):
    return module({"sentence_embedding": torch.from_numpy(rows)}, task)["sentence_embedding"]


def test_documents_are_the_codes_of_encode(model, rows):
    pytest.importorskip("sentence_transformers", reason="needs pip install 'compressae[text]'")
    module = SparseCoder(model, rows)
    expected = encode(model, rows, "float32").to_scipy().toarray()
    # Rows are so alike that rounding of products shows in the fourth digit of values.
    np.testing.assert_allclose(coded(module, rows).numpy(), expected, atol=1e-3)
    one = coded(module, rows[7:8]).numpy()
    np.testing.assert_allclose(one, coded(module, rows)[7:8].numpy(), atol=1e-3)
    np.testing.assert_array_equal((one != 0).sum(1), K)


def test_queries_are_projections(model, rows):
    pytest.importorskip("sentence_transformers", reason="needs pip install 'compressae[text]'")
    x = rows[:5]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True) if model.similarity == "cosine" else x
    expected = unit @ model.projection.decoder.T
    full = coded(SparseCoder(model), x, "query").detach().numpy()
    np.testing.assert_allclose(full, expected, atol=1e-5)
    few = coded(SparseCoder(model, query_nonzeros=3), x, "query").detach().numpy()
    np.testing.assert_array_equal((few != 0).sum(1), 3)
    np.testing.assert_array_equal(few[few != 0], full[few != 0])
    assert np.abs(few).max(1).tolist() == np.abs(full).max(1).tolist()


def test_the_pipeline_gives_signed_sparse_tensors_that_are_searched(pipeline, model, rows, texts):
    documents, queries = pipeline.encode_document(texts), pipeline.encode_query(texts[:5])
    assert documents.layout == torch.sparse_coo and documents.shape == (len(texts), H)
    assert (documents.coalesce().values() < 0).any()
    hits = InvertedIndex(documents, similarity="dot").search(queries, 10)
    scores = queries.to_dense() @ documents.to_dense().T
    np.testing.assert_allclose(hits.scores, scores.topk(10).values, rtol=1e-3, atol=1e-3)
    index = CompressedIndex(model.projection, encode(model, rows, "float32"))
    ours = index.search(rows[:5], 10, candidates="all")
    np.testing.assert_allclose(hits.scores, ours.scores, rtol=5e-3)


def test_a_catalogue_of_the_pipelines_codes_is_exported(pipeline, texts, tmp_path):
    from compressae.retrieval.export import to_scipy

    documents = pipeline.encode_document(texts)
    ids = [f"t{i}" for i in range(len(texts))]
    catalogue = Catalogue.create(tmp_path / "c", None, documents, ids, similarity="dot")
    to_scipy(catalogue, tmp_path / "items.npz")
    matrix = sparse.load_npz(tmp_path / "items.npz")
    np.testing.assert_allclose(matrix.toarray(), documents.to_dense().numpy(), atol=1e-6)
    best = catalogue.search(pipeline.encode_query(texts[:3]), 1).ids
    assert [texts[int(id[1:])] for id in best[:, 0]] != [] and best.shape == (3, 1)


def test_it_goes_to_qdrants_form(pipeline, texts, tmp_path):
    pytest.importorskip("qdrant_client", reason="needs pip install 'compressae[qdrant]'")
    from compressae.retrieval.export import ExportRows
    from compressae.retrieval.export.qdrant import points

    documents = pipeline.encode_document(texts)
    catalogue = Catalogue.create(tmp_path / "c", None, documents, similarity="dot")
    first = next(points(ExportRows(catalogue)))
    row = documents.to_dense()[0].numpy()
    assert first.indices == np.flatnonzero(row).tolist()
    np.testing.assert_allclose(first.values, row[first.indices], atol=1e-6)


def test_a_router_sends_queries_and_documents_their_way(library, encoder, model, rows, texts):
    from sentence_transformers.base.modules import Router

    module = SparseCoder(model, rows)
    router = Router.for_query_document([module], [module])
    routed = library.SparseEncoder(modules=[*encoder, router], device="cpu")
    plain = sparse_encoder(encoder, model, rows)
    for name in ("encode_query", "encode_document"):
        ours, theirs = (getattr(p, name)(texts[:20]).to_dense() for p in (plain, routed))
        torch.testing.assert_close(theirs, ours)


def test_a_saved_pipeline_needs_trust(library, pipeline, texts, tmp_path):
    expected = pipeline.encode_document(texts[:20]).to_dense()
    for _ in range(2):  # Over an older one, too.
        pipeline.save_pretrained(str(tmp_path / "p"))
    folder = str(tmp_path / "p")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        library.SparseEncoder(folder, device="cpu")
    loaded = library.SparseEncoder(folder, trust_remote_code=True, device="cpu")
    torch.testing.assert_close(loaded.encode_document(texts[:20]).to_dense(), expected)
    assert loaded[-1].model.model_id == pipeline[-1].model.model_id


@pytest.mark.parametrize("damage", ["cut", "shape", "nan"])
def test_damaged_weights_are_named(library, pipeline, tmp_path, damage):
    from safetensors.numpy import save_file

    pipeline.save_pretrained(str(tmp_path / "p"))
    (file,) = (tmp_path / "p").rglob("error_weighting.safetensors")
    weights = {"shape": np.eye(3, dtype=np.float32), "nan": np.full((D, D), np.nan, np.float32)}
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        save_file({"error_weighting": weights[damage]}, file)
    with pytest.raises(InputError, match=r"error_weighting.safetensors: .*save the pipeline again"):
        SparseCoder.load(str(tmp_path / "p"), "2_SparseCoder")


def test_the_stock_form_has_the_same_codes_and_needs_no_trust(library, encoder, tmp_path, texts):
    from sentence_transformers.sentence_transformer.modules import Normalize

    rows = encoder.encode(texts)
    model = train(rows, TrainConfig(latents=H, nonzeros=K, steps=3, recipe="autoencoder"))
    stock = stock_autoencoder(model)
    with torch.inference_mode():
        halves = coded_stock(stock, rows)
    ids, values = model.encode(torch.from_numpy(rows))
    expected = torch.zeros(len(rows), H).scatter(1, ids.long(), values).detach()
    signed = halves[:, :H] - halves[:, H:]
    assert torch.equal(signed != 0, expected != 0)
    assert (signed - expected).abs().max() <= 2.4e-7
    assert halves.min() == 0 and ((halves != 0).sum(1) == K).all()
    made = library.SparseEncoder(modules=[*encoder, Normalize(), stock], device="cpu")
    made.save_pretrained(str(tmp_path / "p"))
    loaded = library.SparseEncoder(str(tmp_path / "p"), device="cpu")
    out = loaded.encode(texts).to_dense()
    torch.testing.assert_close(out, halves, atol=1e-5, rtol=0)


def coded_stock(stock, rows):
    unit = torch.nn.functional.normalize(torch.from_numpy(rows))
    return stock({"sentence_embedding": unit})["sentence_embedding"]


def test_what_does_not_fit_is_refused(library, encoder, model, rows):
    with pytest.raises(InputError, match="an encoder of 16 dimensions; expected 8"):
        sparse_encoder(encoder, CompresSAE(8, 32, 4))
    for settings in ({"nonzeros": 0}, {"query_nonzeros": H + 1}):
        with pytest.raises(InputError, match="expected 1 to 64, the latents"):
            SparseCoder(model, **settings)
    with pytest.raises(InputError, match="8 columns; expected 16"):
        coded(SparseCoder(model), rows[:, :8].copy())
    bad = rows[:2].copy()
    bad[1, 0] = np.nan
    with pytest.raises(InputError, match="sentence embeddings: row 1 holds NaN"):
        coded(SparseCoder(model), bad)


def test_without_the_library_its_pip_command_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    for make in (SparseCoder, stock_autoencoder, lambda model: sparse_encoder(None, model)):
        with pytest.raises(MissingExtraError, match=r"pip install 'compressae\[text\]'"):
            make(CompresSAE(8, 32, 4))


def test_packed_codes_of_the_same_texts_rank_alike(pipeline, model, rows, texts):
    """The pipeline's float32 codes and compress's packed ones find mostly the same."""
    packed = CompressedIndex(model.projection, compress(model, rows))
    ours = packed.search(rows[:20], 10, candidates="all").ids
    documents, queries = pipeline.encode_document(texts), pipeline.encode_query(texts[:20])
    scores = (queries.to_dense() @ documents.to_dense().T).topk(10).indices.numpy()
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(ours, scores, strict=True)]
    assert np.mean(shared) > 0.6


def test_the_guides_python_runs(library, encoder, texts, tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / "docs" / "sentence_transformers.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    encoder.save_pretrained("encoder")
    names = {"name": "encoder", "texts": texts}
    for block in re.findall(r"```py\n(.*?)```", page, re.DOTALL):
        exec(block.replace("latents=4096, nonzeros=32", "latents=64, nonzeros=4, steps=3"), names)
    assert names["hits"].ids.shape == (1, 10)
    assert names["stock"].encode(texts[:3]).shape == (3, 2 * H)
    assert names["pipeline"].encode_query(texts[:3]).shape == (3, H)

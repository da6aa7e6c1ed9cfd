"""Methods as they are asked for, and the settings each is built and searched with."""

from datetime import date

import numpy as np
import pytest

from compressae import CompresSAE, InputError, compress
from compressae.evaluation.methods import METHODS, Builder, Method, form_of, parse, variants


def test_text_and_lists_say_the_same():
    text = parse("dense, pq:code_bytes=32/64:train_rows=500 ,hnsw:ef=100")
    listed = parse(
        ["dense", {"pq": {"code_bytes": [32, 64], "train_rows": 500}}, Method("hnsw", {"ef": 100})]
    )
    assert (
        text
        == listed
        == [
            Method("dense"),
            Method("pq", {"code_bytes": (32, 64), "train_rows": 500}),
            Method("hnsw", {"ef": 100}),
        ]
    )
    assert parse([{"pq": None, "rq": {"beam": 5}}]) == [
        Method("pq"),
        Method("rq", {"beam": 5}),
    ]
    assert parse("mixed-radix:combine=product:code_bytes=1.5")[0].settings == {
        "combine": "product",
        "code_bytes": 1.5,
    }
    quick = [name for name in METHODS if name != "lsq"]
    assert [method.name for method in parse("all")] == quick
    assert [method.name for method in parse(["pq, all"])] == ["pq", *quick]
    assert parse([{"pq": {"code_bytes": "32/64"}}]) == parse("pq:code_bytes=32/64")
    assert not Method("sparse", {"typo": 3}).needs_model and Method("sparse").needs_model


@pytest.mark.parametrize(
    "bad",
    [
        "",
        " , ",
        "pq:",
        "pq:code_bytes",
        "pq:=3",
        "pq:a=",
        "pq:a=1:a=2",
        [],
        [3],
        [{"pq": 3}],
        [None],
        [{"pq": {"a": [[1]]}}],
        [{"pq": {"a": date(2026, 1, 1)}}],
    ],
)
def test_what_cannot_be_read_is_refused(bad):
    with pytest.raises(InputError, match="expected"):
        parse(bad)
    with pytest.raises(InputError, match="takes no settings"):
        parse("all:code_bytes=3")


def asked(text, sizes=(32, 64)):
    return list(variants(parse(text)[0], sizes))


def test_sizes_are_built_and_searches_share_a_build():
    assert asked("dense") == [({}, [{}])]
    assert asked("pq") == [({"code_bytes": 32}, [{}]), ({"code_bytes": 64}, [{}])]
    assert asked("pq:code_bytes=8:train_rows=300") == [({"code_bytes": 8, "train_rows": 300}, [{}])]
    assert asked("hnsw:links=8/32") == [
        ({"links": links}, [{"ef": 100}, {"ef": 200}, {"ef": 400}]) for links in (8, 32)
    ]
    assert asked("ivf-pq:nprobe=4", (16,)) == [({"code_bytes": 16}, [{"nprobe": 4}])]
    assert asked("asymmetric:nonzeros=8:residual_bytes=0/16:candidates=500") == [
        ({"nonzeros": 8, "residual_bytes": m}, [{"candidates": 500}]) for m in (0, 16)
    ]
    assert asked("asymmetric-all", (20,)) == [({"code_bytes": 20}, [{}])]
    for text in ("asymmetric-all:candidates=5", "sparse:candidates=5", "hashing:parts=2"):
        with pytest.raises(InputError, match="no setting"):
            asked(text)


def test_code_bytes_become_nonzeros_and_a_residual():
    model = CompresSAE(48, 4096, 16, seed=0)  # A nonzero takes 14 bits, a gain 8.
    assert form_of(model, 64) == {"nonzeros": 16, "residual_bytes": 35, "value_type": "int2"}
    assert form_of(model, 32) == {"nonzeros": 17, "residual_bytes": 0, "value_type": "int2"}
    assert form_of(model, 10) == {"nonzeros": 5, "residual_bytes": 0, "value_type": "int2"}
    assert form_of(model, 200)["residual_bytes"] == 48  # No more than a byte a dimension.
    assert form_of(model, nonzeros=3, values="int8")["residual_bytes"] == 0
    assert form_of(model, 64, nonzeros=8) == {
        "nonzeros": 8,
        "residual_bytes": 48,
        "value_type": "int2",
    }
    assert form_of(model, 17, nonzeros=8, values="int4")["residual_bytes"] == 0
    with pytest.raises(InputError, match="9 nonzeros take 17; give more"):
        form_of(model, 16, nonzeros=9)
    with pytest.raises(InputError, match="the residual to be the rest"):
        form_of(model, 64, residual_bytes=8)
    with pytest.raises(InputError, match="1 nonzeros take 3"):
        form_of(model, 2)
    with pytest.raises(InputError, match="code_bytes with values int8"):
        form_of(model, 64, values="int8")


def test_code_bytes_are_never_exceeded():
    import numpy as np

    rows = np.random.default_rng(0).standard_normal((400, 48)).astype(np.float32)
    model = CompresSAE(48, 4096, 16, seed=0)
    for size in (7, 29, 36, 37, 45, 64):
        codes = compress(model, rows, **form_of(model, size))
        assert size - 3 <= codes.nbytes // len(codes) <= size


def test_quantisers_that_decode_may_hold_a_byte_for_the_length():
    pytest.importorskip("faiss", reason="needs faiss, which the quantisers are of")
    rows = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
    builder = Builder(rows, None, train_rows=400)
    for method in parse("pq:code_bytes=4:length=1, opq:code_bytes=4:weighted=1:length=1"):
        ((settings, _),) = variants(method, [32])
        built, _ = builder.build(method.name, settings)
        assert built.code_nbytes == 5 * 500 and built.trained_rows == 400
    with pytest.raises(InputError, match="scann has no setting 'length'"):
        list(variants(Method("scann", {"length": 1}), [32]))

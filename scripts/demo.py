#!/usr/bin/env python3
"""The main job on the WordNet sample: train, compress, index, report beside every baseline at equal
bytes, write an atlas of the latents, and print five searches.

usage: demo.py [OUTPUT_FOLDER]     (demo-output when not given)
"""

import sys
import textwrap
from pathlib import Path

import numpy as np

from compressae import InputError, TrainConfig, compress, load_sample
from compressae.cli.progress import progress
from compressae.cli.train import run
from compressae.evaluation.atlas import atlas, write_atlas
from compressae.evaluation.methods import Method, form_of, parse
from compressae.evaluation.protocol import evaluate
from compressae.evaluation.report import check_report_destination, print_table, write
from compressae.evaluation.summary import summarise
from compressae.retrieval import Catalogue, CompressedIndex, ExactIndex, recall_at
from compressae.retrieval.io.artifacts import check_destination
from compressae.retrieval.store.catalogue import check_place
from compressae.training.config import held_out_rows

QUERIES = 1000
#: Bytes a row of every method that has a choice.
CODE_BYTES = 32
SHOWN = 5


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")
    table = folder / "wordnet_sample.npy"
    try:
        if folder.exists() and any(folder.iterdir()) and not table.exists():
            sys.exit(f"error: {folder} exists and was not made by this script; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("model", "codes"):  # Only these and the index are replaced.
            check_destination(folder / kind, kind)
        check_place(folder / "index", overwrite=True)
        check_report_destination(folder / "report")
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")

    sample = load_sample()
    held, rest = held_out_rows(len(sample.embeddings), QUERIES)
    rest = np.sort(rest)
    np.save(table, sample.embeddings.to_array().astype(np.float16))
    items, queries = sample.embeddings.subset(rest), sample.embeddings.take(held)
    print(f"{len(items):,} WordNet nouns to search, {QUERIES:,} held out as queries")

    config = TrainConfig(latents=4096, hold_out=QUERIES)
    model = run(sample.embeddings, config, "auto")
    form = form_of(model, CODE_BYTES)
    codes = compress(model, items, **form)
    index = CompressedIndex(model.projection, codes)
    model.save(folder / "model")
    codes.save(folder / "codes")
    Catalogue.write(folder / "index", index, overwrite=True)
    texts = [sample.texts[row] for row in rest]
    write_atlas(atlas(index, texts), folder / "atlas.html")

    # A beam, the default of both, takes minutes more.
    methods = [
        Method(method.name, {"beam": 1}) if method.name in ("rq", "prq") else method
        for method in parse("all")
    ]
    with progress("measuring") as show:
        result = evaluate(items, queries, methods, model, (CODE_BYTES,), rest, held, progress=show)
    summary = summarise(result)
    write(result, folder / "report", summary)
    print_table(summary)

    dense = ExactIndex(items).search(queries, 100)
    ours = index.search(queries, 100)
    rng = np.random.default_rng(1)
    for q in rng.choice(QUERIES, SHOWN, replace=False):
        recall = recall_at(ours.ids[q : q + 1], dense.ids[q : q + 1], 100)
        print(f"\n{sample.texts[held[q]]}    [recall@100 {recall:.2f}]")
        print(f"  {'dense':58}| compressed")
        for a, b in zip(dense.ids[q, :SHOWN], ours.ids[q, :SHOWN], strict=True):
            left, right = (textwrap.shorten(texts[i], 56) for i in (a, b))
            print(f"  {left:58}| {right}")

    print(f"\nSaved in {folder}/: {table.name}, model, codes, index, report, atlas.html.")
    print(f"Open {folder}/report/report.html and {folder}/atlas.html in a browser. By hand:")
    print(f"  compressae train {table} -o model --hold-out {QUERIES}")
    print(f"  compressae evaluate {table} -m model -o report --bytes {CODE_BYTES}")
    print(f"  compressae index {table} -m model -o index --nonzeros {form['nonzeros']}")
    print(f"  compressae search index {table} -k 5 -o hits.npz")
    print(f"  compressae check model {table}")
    print("  compressae inspect index -o atlas.html")


if __name__ == "__main__":
    main()

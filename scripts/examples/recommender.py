#!/usr/bin/env python3
"""A recommender from interactions to a served index: train matrix factorisation, compress its
items for dot products, find the top 20 of users without what they have seen, evaluate, add items.

usage: recommender.py [-o FOLDER] [DATA]

DATA is an .npz of pairs (see scripts/recommenders/interactions.py) or LightGCN's two text files;
planted pairs when not given.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from recommenders.interactions import read_split
from recommenders.models import MODELS, recommender
from recommenders.synthetic import preferences
from recommenders.training import Run, recipe_for
from scipy import sparse

from compressae import InputError, TrainConfig, compress, encode_like, train
from compressae.cli.progress import progress
from compressae.coding.plan import TRAINED_NONZEROS, plan
from compressae.evaluation.drift import check, measure_reference
from compressae.evaluation.interactions import Interactions
from compressae.evaluation.protocol import evaluate
from compressae.evaluation.report import check_report_destination, print_table, write
from compressae.evaluation.summary import summarise
from compressae.retrieval import Catalogue, exact_search, recall_at
from compressae.tables import FullTable

DIM, EPOCHS = 64, 16
#: Bytes a row of the codes, where a dense row has 4 · DIM.
CODE_BYTES = 30
#: Items of the catalogue that codes are planned for, of which these are the first.
CATALOGUE = 1_000_000
#: Users whose results are judged; the others say how errors are weighted.
JUDGED = 1000
#: Items that the dictionary is not learned from: by them ``check`` knows how new ones are coded.
HELD_OUT = 200
#: Items that come later: their share, and they are the last ones.
LATER = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("recommender-output"))
    parser.add_argument("--model", choices=MODELS[:2], default="mf")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--latents", type=int, nargs="+", default=[256, 512], help="To plan among.")
    options = parser.parse_args()
    try:
        run(options.data, options.output, options.model, options.epochs, options.latents)
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")


def run(data: Path | None, folder: Path, name: str, epochs: int, latents: Sequence[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    check_report_destination(folder / "report")

    # Interactions, and a recommender: two tables, whose dot products rank.
    if data is None:
        data = folder / "pairs.npz"
        np.savez(data, **preferences())  # type: ignore[arg-type]
        print("no DATA: planted pairs")
    split = read_split(data)
    torch.manual_seed(0)
    table = FullTable(split.n_users + split.n_items, DIM, std=0.1)
    model = recommender(name, table, split.train, "users")
    with progress(f"training {name}") as show:
        recipe = recipe_for(name, epochs=epochs, temperature=0.2, batch=1 << 14, candidates=4096)
        Run(model, split, recipe).fit(report=show)
    rows = model.final().numpy()
    users, items = rows[: split.n_users], rows[split.n_users :]
    np.save(folder / "users.npy", users)
    np.save(folder / "items.npy", items)
    sparse.save_npz(folder / "seen.npz", sparse.csr_array(split.train))
    sparse.save_npz(folder / "test.npz", sparse.csr_array(split.test))
    first = int(len(items) * (1 - LATER))
    print(
        f"{len(users):,} users, {len(items):,} items of {4 * DIM} bytes; {first:,} are there first"
    )

    # Which codes fit: measured on the items, by users.
    with progress("planning") as show:
        memory = f"{CODE_BYTES + 1} B/row"  # Constants too.
        plans = plan(
            items[:first], CATALOGUE, memory, latents, users, False, show, similarity="dot"
        )
    best = plans[0]
    print(
        f"plan for {CATALOGUE:,} items: {best.latents} latents, {best.nonzeros} nonzeros, "
        f"{best.residual_bytes} residual bytes: {best.code_bytes} bytes a row, recall@100 "
        f"{best.recall:.3f}"
    )

    # Dictionary, codes, index. Errors are weighted by users who are not judged below.
    order = np.random.default_rng(0).permutation(np.flatnonzero(np.diff(split.test.indptr)))
    judged = order[: min(JUDGED, len(order) // 2)]
    others = np.setdiff1d(np.arange(len(users)), judged)
    nonzeros = min(TRAINED_NONZEROS, best.latents)
    config = TrainConfig(best.latents, nonzeros, hold_out=HELD_OUT, similarity="dot")
    dictionary = train(items[:first], config)
    dictionary.settings["reference"] = measure_reference(dictionary, items[:first]).to_settings()
    # Of the same bytes in all, more go to the items that are recommended most.
    seen = sparse.csr_array(split.train)
    counted = exact_search(items[:first], users[others], 50, "dot", exclude=seen[others, :first])
    importance = 1 + np.bincount(counted.ids[counted.ids >= 0], minlength=first)
    np.save(folder / "importance.npy", importance)
    codes = compress(
        dictionary,
        items[:first],
        residual_bytes=CODE_BYTES // 2,
        budget=f"{CODE_BYTES} B/row",
        importance=importance,
        queries=users[others],
    )
    place = folder / "index"
    index = Catalogue.create(place, dictionary.projection, codes, overwrite=True)
    dictionary.save(folder / "model")

    # The top 20 of users, without what they have seen; so few items are scanned.
    hits = index.search(users[judged], 20, candidates="all", exclude=seen[judged])
    for user, ids, scores in zip(judged[:3], hits.ids, hits.scores, strict=False):
        best_five = ", ".join(f"{i} ({s:.2f})" for i, s in zip(ids[:5], scores[:5], strict=True))
        print(f"user {user}: {best_five}, …")

    # What is lost, beside other methods at about the same bytes.
    interactions = Interactions.of(seen[:, :first], split.test[:, :first], judged)
    form = f"nonzeros={best.nonzeros}:residual_bytes={best.residual_bytes}"
    budget = f"budget={CODE_BYTES}:residual_bytes={CODE_BYTES // 2}"
    methods = (
        f"dense, asymmetric:{form}:candidates=1000, asymmetric-all:{form}, "
        f"asymmetric-all:{budget}, "
        "pq:code_bytes=32, ne-pq:code_bytes=33"
    )
    with progress("measuring") as show:
        result = evaluate(
            items[:first],
            users[judged],
            methods,
            dictionary,
            (CODE_BYTES,),
            progress=show,
            interactions=interactions,
            query_sample=users[others],
            importance=importance,
        )
    summary = summarise(result)
    write(result, folder / "report", summary)
    print_table(summary)

    # New items come: coded like the others, added, found by who wants them.
    started = time.perf_counter()
    new = index.add(encode_like(dictionary, items[first:], index.like))
    seconds = time.perf_counter() - started
    hits = index.search(users[judged], 20, candidates="all", exclude=seen[judged])
    truth = exact_search(items, users[judged], 20, "dot", exclude=seen[judged])
    overlap = recall_at(hits.ids, truth.ids, 20)
    found, wanted = (np.isin(ids, new).sum() for ids in (hits.ids, truth.ids))
    print(
        f"\n{len(new)} new items in {seconds:.2f} s: overlap with the dense top 20 {overlap:.3f}; "
        f"new items are {found} of its results, {wanted} of the dense ones"
    )
    drift = check(dictionary, items[max(0, first - 1000) :])
    print(f"check of the newest 1,000 items: {drift.verdict}")

    print(f"\nSaved in {folder}/: tables, pairs, model, index, report. By hand:")
    f = folder
    print(f"  compressae train {f}/items.npy -o model --similarity dot --latents {best.latents}")
    print(
        f"  compressae index {f}/items.npy -m model -o index --queries {f}/users.npy "
        f"--budget '{CODE_BYTES} B/row' --residual-bytes {CODE_BYTES // 2} --importance "
        f"{f}/importance.npy"
    )
    print(f"  compressae search index {f}/users.npy -k 20 --exclude {f}/seen.npz -o hits.npz")
    print(
        f"  compressae evaluate {f}/items.npy --queries {f}/users.npy --interactions {f}/seen.npz "
        f"--test {f}/test.npz -m model -o report --bytes {CODE_BYTES}"
    )


if __name__ == "__main__":
    main()

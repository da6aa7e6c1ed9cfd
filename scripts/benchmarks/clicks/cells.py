"""Cells of the table: each is trained and judged once, and has a file of its own."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks.clicks.methods import Method
from benchmarks.clicks.workbench import Setting, Workbench
from benchmarks.gowalla.files import write_json
from clicks.examples import Examples
from clicks.training import evaluate

from compressae.evaluation.protocol import machine
from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import library_version
from compressae.training.checkpoint import check_same


def cell_path(out: Path, examples: str, setting: Setting, method: str, seed: int) -> Path:
    """File of a cell."""
    names = examples, setting.model, setting.recipe.optimizer, method, str(seed)
    return out / "cells" / f"{'-'.join(names)}.json"


def settings_of(examples: Examples, setting: Setting) -> dict[str, Any]:
    """What cells that are compared have in common, as JSON."""
    record = asdict(setting)
    recipe = record.pop("recipe")
    del recipe["seed"]
    sizes = {part: len(indices) for part, indices in examples.parts.items()}
    facts = {**examples.facts, **sizes, "rows": examples.rows, "dense": examples.dense.shape[1]}
    return {"data": examples.name, **record, **recipe, **facts}


def records(out: Path) -> list[dict[str, Any]]:
    """Read all cells.

    Raises:
        InputError: a file is no cell.
    """
    found = []
    for path in sorted((out / "cells").glob("*.json")):
        try:
            record = json.loads(path.read_text())
            found.append({name: record[name] for name in (*KEYS, *record)})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no cell ({error!r}); remove it, and it is made") from error
    return found


KEYS = ("data", "model", "optimizer", "method", "seed", "does_not_fit", "settings")


def check(out: Path, examples: Examples, setting: Setting) -> None:
    """Refuse to mix cells of other settings.

    Raises:
        InputError: names the setting that differs.
    """
    current = settings_of(examples, setting)
    for record in records(out):
        same = (examples.name, setting.model, setting.recipe.optimizer)
        if (record["data"], record["model"], record["optimizer"]) == same:
            cure = "give the same settings and data, or another output folder"
            check_same(f"{out}: cells made with", record["settings"], current, cure)


def make(
    path: Path, method: Method, examples: Examples, setting: Setting, seed: int, full: Path
) -> dict[str, Any]:
    """Train, judge and write a cell; returns its record."""
    bench = Workbench(examples, setting, seed, full)
    record: dict[str, Any] = {
        "data": examples.name,
        "model": setting.model,
        "optimizer": setting.recipe.optimizer,
        "method": method.name,
        "seed": seed,
        "does_not_fit": None,
    }
    torch.manual_seed(seed)
    tables = None
    try:
        tables = method.make(bench)
    except InputError as error:
        record["does_not_fit"] = str(error)
    if tables is not None:
        torch.manual_seed(seed)
        trained = method.origin != "start"
        model = bench.model_of_trained(tables) if trained else bench.model(tables)
        if method.origin != "trained":
            settings = {"starts_trained": trained, "autocast": method.autocast}
            outcome = bench.train(model, path.stem, **settings)
            record |= {**asdict(outcome)}
            if method.name == "full":
                bench.keep_full(model, outcome.seconds)
        stored = tables.export()
        model.tables = stored
        quality = {part: evaluate(model, examples, part) for part in ("valid", "test")}
        record |= {
            "bytes": stored.nbytes,
            "parameters": sum(p.numel() for p in stored.parameters()),
            "other_parameters": sum(p.numel() for p in model.parameters())
            - sum(p.numel() for p in stored.parameters()),
            **{f"{part}_{name}": x for part, q in quality.items() for name, x in asdict(q).items()},
            "full_seconds": bench.full_seconds,
        }
    record |= {
        "settings": settings_of(examples, setting),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "version": library_version(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return record

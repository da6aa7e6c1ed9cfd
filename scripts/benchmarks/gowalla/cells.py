"""Cells of the comparison: each is judged once and has a file of its own."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.gowalla.files import origin, write_json
from benchmarks.gowalla.joined import JoinedTable
from benchmarks.gowalla.methods import Method
from benchmarks.gowalla.workbench import DoesNotFit, Setting, Workbench
from recommenders.interactions import Split, fingerprint
from recommenders.ranking import evaluate_all
from scipy.sparse import csr_array

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import library_version
from compressae.tables import Table
from compressae.training.checkpoint import check_same

TOP = 20
#: Keys of every record, beside its figures.
KEYS = (
    "protocol",
    "model",
    "seed",
    "method",
    "removed",
    "does_not_fit",
    "failed",
    "seconds",
    "dense_seconds",
    "method_settings",
    "machine",
)


@dataclass(frozen=True)
class Cell:
    """One method at one budget: ``removed`` per cent of the dense table's bytes, 0 for the dense
    table itself."""

    setting: Setting
    seed: int
    method: Method
    removed: float

    @property
    def name(self) -> str:
        setting = self.setting
        return f"{setting.protocol}-{setting.model}-{self.method.name}-{self.removed:g}-{self.seed}"

    def budget(self, n: int) -> int:
        """Bytes of the budget of n rows."""
        return int(n * self.setting.dim * 4 * (100 - self.removed) / 100 + 1e-6)


class Store:
    """The folder OUT: ``cells/NAME.json``, ``dense/`` and, during training, ``work/``.

    Raises:
        InputError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.cells = folder, folder / "cells"
        try:
            self.cells.mkdir(parents=True, exist_ok=True)
            (folder / "dense").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); expected a folder, or a place "
                "for one: choose another"
            ) from error

    def records(self) -> list[dict[str, Any]]:
        """Read all cells, by name.

        Raises:
            InputError: a file is no cell.
        """
        records = []
        for path in sorted(self.cells.glob("*.json")):
            try:
                record = json.loads(path.read_text())
                if missing := [name for name in KEYS if name not in record]:
                    raise KeyError(*missing)
                settings = {"recipe": {}, **record["settings"]}
                records.append({**record, "name": path.stem, "settings": settings})
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}: damaged, or no cell; remove it, and it is made anew"
                ) from error
        return records

    def check(self, setting: Setting, whole: Split) -> None:
        """Refuse to mix cells of a protocol and model with other settings or data.

        Raises:
            InputError: names the setting that differs.
        """
        current = {**setting.record(), **_data(whole)}
        for record in self.records():
            if (record["protocol"], record["model"]) != (setting.protocol, setting.model):
                continue
            both = record["settings"], current
            saved, current_flat = ({**x, **x["recipe"], "recipe": 0} for x in both)
            cure = "give the same settings and data, or another output folder"
            check_same(f"{self.cells / record['name']}.json: made with", saved, current_flat, cure)

    def done(self, cell: Cell) -> bool:
        """Whether a cell is done: one that failed is not, one that does not fit is.

        Raises:
            InputError: it was made with other settings of its method.
        """
        path = self.cells / f"{cell.name}.json"
        if not path.exists():
            return False
        record = json.loads(path.read_text())
        if record["failed"] is not None:
            return False
        if record["method_settings"] != cell.method.settings:
            raise InputError(
                f"{path}: made with {record['method_settings']} for {cell.method.name}, which now "
                f"has {cell.method.settings}; remove it, or choose another output folder"
            )
        return True

    def make(self, cell: Cell, whole: Split) -> dict[str, Any]:
        """Train, judge and write a cell; returns its record."""
        setting = cell.setting
        seen, judged = setting.splits(whole, cell.seed)
        work = self.folder / "work" / cell.name
        dense = self.folder / "dense" / f"{setting.protocol}-{setting.model}-{cell.seed}"
        bench = Workbench(setting, seen, cell.seed, work, dense, what=cell.name)
        budget = cell.budget(bench.n)
        record: dict[str, Any] = {
            "protocol": setting.protocol,
            "model": setting.model,
            "seed": cell.seed,
            "method": cell.method.name,
            "removed": cell.removed,
            "budget": budget,
            "does_not_fit": None,
            "failed": None,
        }
        torch.manual_seed(cell.seed)
        try:
            table = cell.method.function(bench, budget)
            record |= {
                **sizes(cell.method, table, budget),
                **_judge(bench, cell.method, table, judged),
            }
        except DoesNotFit as error:
            record["does_not_fit"] = str(error)
        except InputError as error:
            record["failed"] = str(error)
        record |= {
            "seconds": bench.seconds,
            "dense_seconds": bench.dense_seconds,
            "epochs": sum(training["epochs"] for training in bench.trainings),
            "trainings": bench.trainings,
            "facts": bench.facts,
            "method_settings": cell.method.settings,
            "settings": {**setting.record(), **_data(whole)},
            **origin(),
            "threads": torch.get_num_threads(),
            "version": library_version(),
        }
        write_json(self.cells / f"{cell.name}.json", record)
        if not record["failed"]:  # A failed cell (a full disk, say) goes on from there.
            shutil.rmtree(work, ignore_errors=True)
        return record


def sizes(method: Method, table: Table, budget: int) -> dict[str, Any]:
    """Bytes of a table and its share of the budget, as the method counts them.

    Raises:
        InputError: the table is over its budget.
    """
    if method.counts == "items":
        assert isinstance(table, JoinedTable)
        budget = budget - budget * table.parts[0].num_embeddings // table.num_embeddings
        table = table.parts[1]
    numbers, stored = sum(p.numel() for p in table.parameters()), int(table.nbytes)
    counted = 4 * numbers if method.counts == "numbers" else stored
    if counted > budget:
        raise InputError(f"{method.name}: {counted} bytes, over its budget of {budget}")
    return {
        "bytes": stored,
        "bytes_a_row": stored / table.num_embeddings,
        "numbers": numbers,
        "unused": 1 - counted / budget,
    }


def _judge(bench: Workbench, method: Method, table: Table, judged: Split) -> dict[str, Any]:
    """Recall@20 and NDCG@20, training pairs masked.

    ``…_hidden`` of protocol "bet" masks validation pairs too: BET's public code masks only training
    pairs, but which of the two gave its published figures is not certain.
    """
    model = bench.served(table) if method.counts == "items" else bench.recommender(table)
    scores, setting = model.scorer(), bench.setting
    cases: dict[str, tuple[csr_array, csr_array]] = {}
    if judged.valid.nnz:
        cases["valid_"] = (judged.valid, judged.train)
    if setting.test:
        cases[""] = (judged.test, judged.train)
        if setting.protocol == "bet":
            cases["hidden_"] = (judged.test, csr_array(judged.train + judged.valid))
    figures: dict[str, Any] = {}
    found = evaluate_all(scores, list(cases.values()), TOP)
    for prefix, quality in zip(cases, found, strict=True):
        hidden = prefix == "hidden_"
        before, after = ("", "_hidden") if hidden else (prefix, "")
        figures[f"{before}recall{TOP}{after}"] = quality.recall
        figures[f"{before}ndcg{TOP}{after}"] = quality.ndcg
        figures[f"{before}users{after}"] = quality.users
    return figures


def _data(whole: Split) -> dict[str, Any]:
    """Sizes and checksums of the data."""
    parts = {"train": whole.train, "test": whole.test}
    return {
        "users": whole.n_users,
        "items": whole.n_items,
        "pairs": {k: fingerprint(x) for k, x in parts.items()},
    }

"""The table as Markdown, from the cells."""

from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
from benchmarks.clicks.methods import METHODS

Record = dict[str, Any]
#: What the cells of a table have in common.
_SHARED = ("data", "model", "optimizer", "settings", "machine", "threads", "version")


def grouped(records: list[Record]) -> dict[str, list[Record]]:
    """Cells by data set, model and optimiser, with what they have in common said once."""
    groups = []
    for _, cells in _groups(records):
        shared = {name: cells[0][name] for name in _SHARED}
        own = [{k: v for k, v in cell.items() if k not in _SHARED} for cell in cells]
        groups.append({**shared, "cells": own})
    return {"groups": groups}


def markdown(records: list[Record]) -> str:
    """A table for each data set, model and optimiser."""
    parts = ["# Click models over compressed tables\n"]
    for names, cells in _groups(records):
        parts.append(section(*names, cells))
    return "\n".join(parts)


def _groups(records: list[Record]) -> list[tuple[tuple[str, str, str], list[Record]]]:
    def key(record: Record) -> tuple[str, str, str]:
        return record["data"], record["model"], record["optimizer"]

    return [(names, list(cells)) for names, cells in groupby(sorted(records, key=key), key)]


def section(data: str, model: str, optimizer: str, cells: list[Record]) -> str:
    """One table with its settings in words."""
    setting = cells[0]["settings"]
    seeds = sorted({cell["seed"] for cell in cells})
    made_up = ", made up" * bool(setting.get("made_up"))
    rows = setting["rows"]
    lines = [
        f"## {data}{made_up}: {_MODELS[model]}, {_OPTIMIZERS[optimizer]}\n",
        f"{setting['train']:,} training, {setting['valid']:,} validation and {setting['test']:,} "
        f"test examples{made_up}; {len(rows)} categorical features of {min(rows.values()):,} to "
        f"{max(rows.values()):,} ids ({sum(rows.values()):,} in all; values used fewer than "
        f"{setting['min_count']} times share one), {setting['dense']} dense ones; d = "
        f"{setting['dim']}, batches of {setting['batch']}, learning rate "
        f"{_rate(setting)}, {setting['epochs']} epochs at most, the model of the least validation "
        f"log loss kept. Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        f"{'; ± is the standard deviation over them' * (len(seeds) > 1)}. Parameters (integers and "
        "packed codes are none) and bytes are those of stored tables; s: seconds of training.\n",
    ]
    if "base_log_loss" in setting:
        known = ""
        if "true_log_loss" in setting:
            known = f"; the true probabilities: {setting['true_log_loss']:.4f}, AUC "
            known += f"{setting['true_auc']:.4f}"
        lines.append(
            f"Test log loss of the training labels' mean: {setting['base_log_loss']:.4f}{known}.\n"
        )
    full = [cell for cell in cells if cell["method"] == "full" and "test_log_loss" in cell]
    lines += [
        "| tables | parameters | bytes | of full | log loss | over full | AUC | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    absent = []
    for name, method in METHODS.items():
        found = [cell for cell in cells if cell["method"] == name]
        if not found:
            absent.append(name)
            continue
        made = sorted(cell["seed"] for cell in found)
        few = f" (seed {', '.join(map(str, made))} alone)" * (made != seeds)
        lines.append(_line(method.label + few, found, full))
    if absent:
        command = f"python scripts/benchmarks/clicks --data {data} --model {model} --optimizer "
        command += f"{optimizer} -o OUT " + " ".join(f"--method {name}" for name in absent)
        lines.append(f"\nNot run: `{command}` (with the settings above).")
    machine = cells[0]["machine"]
    held = ", ".join(f"{k} {v}" for k, v in machine.items() if v is not None)
    lines.append(f"\nMachine: {held}; threads: {cells[0]['threads']}.\n")
    return "\n".join(lines)


_MODELS = {"dlrm": "DLRM", "dcn": "DCN v2"}
_OPTIMIZERS = {"adagrad": "Adagrad", "amsgrad": "AMSGrad"}


def _rate(setting: Record) -> str:
    default = 0.01 if setting["optimizer"] == "adagrad" else 0.001
    return f"{default if setting['learning_rate'] is None else setting['learning_rate']:g}"


def _line(label: str, cells: list[Record], full: list[Record]) -> str:
    if any(cell["does_not_fit"] for cell in cells):
        return f"| {label} | does not fit | | | | | | |"
    size = np.mean([cell["bytes"] for cell in cells])
    of_full, over = "", ""
    if full:
        of_full = f"{100 * size / full[0]['bytes']:.1f} %"
        by_seed = {cell["seed"]: cell["test_log_loss"] for cell in full}
        pairs = [
            (cell["test_log_loss"], by_seed[cell["seed"]])
            for cell in cells
            if cell["seed"] in by_seed
        ]
        if pairs and cells[0]["method"] != "full":
            over = f"{100 * np.mean([one / other - 1 for one, other in pairs]):+.2f} %"
    seconds = [cell["seconds"] for cell in cells if "seconds" in cell]
    figures = [
        label,
        f"{np.mean([cell['parameters'] for cell in cells]):,.0f}"
        if cells[0]["parameters"]
        else "–",
        f"{size:,.0f}",
        of_full,
        _mean(cells, lambda cell: cell["test_log_loss"]),
        over,
        _mean(cells, lambda cell: cell["test_auc"]),
        f"{np.mean(seconds):.0f}" if seconds else "",
    ]
    return f"| {' | '.join(figures)} |"


def _mean(cells: list[Record], figure: Callable[[Record], float]) -> str:
    figures = [figure(cell) for cell in cells]
    text = f"{np.mean(figures):.4f}"
    if len(figures) > 1:
        text += f" ± {np.std(figures, ddof=1):.4f}"
    return text

"""Trainable tables smaller than n × d floats, each called like ``torch.nn.Embedding``.

Public names are imported when first used, so that ``import compressae.tables`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressae.tables.bag import TableBag
    from compressae.tables.base import Table
    from compressae.tables.bet.actions import Action, ActionSampler
    from compressae.tables.bet.predictor import FitnessPredictor
    from compressae.tables.bet.searching import Trial, WidthSearch
    from compressae.tables.budgeted import BudgetedTable
    from compressae.tables.budgets import power_widths, uniform_widths, widths_of_shares
    from compressae.tables.coded import CodedTable
    from compressae.tables.collection import TableCollection
    from compressae.tables.compositional import CompositionalTable
    from compressae.tables.full import FullTable
    from compressae.tables.hashed import HashedTable
    from compressae.tables.partitioner import Partitions, find_collision, partition
    from compressae.tables.path import PathTable
    from compressae.tables.pruned import PrunedTable
    from compressae.tables.quantized import IntegerTable, QuantizedTable

_MODULES = {
    "bag": ["TableBag"],
    "base": ["Table"],
    "bet.actions": ["Action", "ActionSampler"],
    "bet.predictor": ["FitnessPredictor"],
    "bet.searching": ["Trial", "WidthSearch"],
    "budgeted": ["BudgetedTable"],
    "budgets": ["power_widths", "uniform_widths", "widths_of_shares"],
    "coded": ["CodedTable"],
    "collection": ["TableCollection"],
    "compositional": ["CompositionalTable"],
    "full": ["FullTable"],
    "hashed": ["HashedTable"],
    "partitioner": ["Partitions", "find_collision", "partition"],
    "path": ["PathTable"],
    "pruned": ["PrunedTable"],
    "quantized": ["IntegerTable", "QuantizedTable"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Action",
    "ActionSampler",
    "BudgetedTable",
    "CodedTable",
    "CompositionalTable",
    "FitnessPredictor",
    "FullTable",
    "HashedTable",
    "IntegerTable",
    "Partitions",
    "PathTable",
    "PrunedTable",
    "QuantizedTable",
    "Table",
    "TableBag",
    "TableCollection",
    "Trial",
    "WidthSearch",
    "find_collision",
    "partition",
    "power_widths",
    "uniform_widths",
    "widths_of_shares",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compressae.tables' has no attribute {name!r}")
    return getattr(import_module(f"compressae.tables.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

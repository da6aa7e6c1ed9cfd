"""Trainable tables that are smaller than n × d floats, each called as ``torch.nn.Embedding`` is.

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
    from compressae.tables.compositional import CompositionalTable
    from compressae.tables.full import FullTable
    from compressae.tables.hashed import HashedTable
    from compressae.tables.partitioner import Partitions, find_collision, partition
    from compressae.tables.path import PathTable
    from compressae.tables.pruned import PrunedTable
    from compressae.tables.quantized import IntegerTable, QuantizedTable

_HOME = {
    "Action": "bet.actions",
    "ActionSampler": "bet.actions",
    "BudgetedTable": "budgeted",
    "CodedTable": "coded",
    "CompositionalTable": "compositional",
    "FitnessPredictor": "bet.predictor",
    "FullTable": "full",
    "HashedTable": "hashed",
    "IntegerTable": "quantized",
    "Partitions": "partitioner",
    "PathTable": "path",
    "PrunedTable": "pruned",
    "QuantizedTable": "quantized",
    "Table": "base",
    "TableBag": "bag",
    "Trial": "bet.searching",
    "WidthSearch": "bet.searching",
    "find_collision": "partitioner",
    "partition": "partitioner",
    "power_widths": "budgets",
    "uniform_widths": "budgets",
    "widths_of_shares": "budgets",
}

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

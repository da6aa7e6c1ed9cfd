"""Relevance labels (qrels): graded items of each query."""

from pathlib import Path

import numpy as np

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.remote import local_path


def read_qrels(path: str | Path) -> dict[int, dict[int, float]]:
    """Read grades by query and item, both row numbers.

    A line is "query item grade", or TREC's "query 0 item grade", separated by spaces or tabs. A
    first line of words (BEIR's header) is skipped. Grades above 0 are relevant.

    Raises:
        InputError: a line of another form; it is named.
        OSError: the file cannot be read.
    """
    path = local_path(path, "labels are read from a local file")
    labels: dict[int, dict[int, float]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text ({error.reason}); expected lines of labels") from error
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts or (number == 1 and not any(part.isdecimal() for part in parts)):
            continue
        try:
            if len(parts) != 3 and not (len(parts) == 4 and parts[1] in ("0", "Q0")):
                raise ValueError
            query, item, grade = int(parts[0]), int(parts[-2]), float(parts[-1])
            if query < 0 or item < 0 or not np.isfinite(grade):
                raise ValueError
        except ValueError:
            raise InputError(
                f"{path}, line {number}: {line.strip()!r}; expected 'query item grade' or "
                "'query 0 item grade', query and item by row number"
            ) from None
        labels.setdefault(query, {})[item] = grade
    if not labels:
        raise InputError(f"{path}: no labels in it; expected lines 'query item grade'")
    return labels


def labels_of(
    read: dict[int, dict[int, float]], queries: np.ndarray, rows: np.ndarray, path: str | Path
) -> tuple[list[dict[int, float]], int]:
    """Grades of each query, and the number of labels whose items cannot be found.

    Args:
        read: from ``read_qrels``.
        queries: (q,) names of the queries.
        rows: (n,) names of the items that can be found.
        path: for the error message.

    Raises:
        InputError: no query has a label of an item that can be found.

    >>> labels_of({7: {3: 1.0, 8: 1.0}}, np.array([7]), np.array([3, 4]), "qrels")
    ([{3: 1.0}], 1)
    """
    present = set(rows.tolist())
    labels, missing = [], 0
    for query in queries.tolist():
        grades = read.get(query, {})
        labels.append({item: grade for item, grade in grades.items() if item in present})
        missing += len(grades) - len(labels[-1])
    if not any(grade > 0 for grades in labels for grade in grades.values()):
        raise InputError(
            f"{path}: names none of the {len(queries)} queries (such as {queries[0]}) with an item "
            "that can be found; expected row numbers of both"
        )
    return labels, missing

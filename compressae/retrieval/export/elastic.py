"""A file for the bulk interface of Elasticsearch and OpenSearch: two lines of JSON an item."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compressae.retrieval.errors import InputError
from compressae.retrieval.export.rows import ExportRows, as_python
from compressae.retrieval.io.atomic import check_new_file, replacing
from compressae.retrieval.io.remote import REMOTE_OUTPUT, local_path
from compressae.retrieval.store.catalogue import Catalogue

#: Field of the weights.
FIELD = "code"


def to_elastic(
    catalogue: Catalogue,
    path: str | Path,
    *,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], Any] | None = None,
) -> int:
    """Write NDJSON for ``POST /INDEX/_bulk``: a line of the id and a line of the document.

    A document has the metadata and ``code``: {"latent": weight} with signs "halves" (see
    ``ExportRows``), for a field of type ``sparse_vector`` or ``rank_features``, whose weights are
    positive and kept to nine bits. So the engine finds candidates, which must be reranked. Rows
    without nonzeros have no ``code``.

    Args:
        catalogue: the version that it has open is written.
        path: the file.
        columns: names of the metadata columns that go along; all when None.
        overwrite: replace an older file.
        progress: called with (rows done, rows).

    Returns:
        Rows written.

    Raises:
        InputError: columns that JSON does not hold, something else at the path, or the disk
            failed. What was there is unchanged.

    >>> import tempfile
    >>> import numpy as np
    >>> from scipy import sparse
    >>> rows = sparse.csr_array(np.array([[0, 2.0, -0.5]], np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     catalogue = Catalogue.create(f"{folder}/c", None, rows, ids=["a"])
    ...     count = to_elastic(catalogue, f"{folder}/rows.ndjson")
    ...     print(Path(f"{folder}/rows.ndjson").read_text(), end="")
    {"index": {"_id": "a"}}
    {"code": {"1": 2.0, "5": 0.5}}
    """
    path = local_path(path, REMOTE_OUTPUT)
    rows = ExportRows(catalogue, columns, reserved=(FIELD, "_id"), signs="halves")
    for name in rows.columns:
        if name.startswith(("_", f"{FIELD}.")):
            raise InputError(
                f"metadata column {name!r}: a name of the engine's own, or within {FIELD!r}; leave "
                "it out: name the others by columns (--columns)"
            )
    check_new_file(path, overwrite)
    with replacing(path) as file, file.open("w", encoding="utf-8", newline="\n") as out:
        for batch in rows.batches(progress):
            bounds, latents, values = (
                array.tolist() for array in (batch.bounds, batch.latents, batch.values)
            )
            lists = [] if batch.metadata is None else as_python(batch.metadata, rows.columns)
            for i, id in enumerate(map(str, batch.ids.tolist())):
                part = slice(bounds[i], bounds[i + 1])
                weights = {str(j): w for j, w in zip(latents[part], values[part], strict=True)}
                document: dict[str, Any] = {FIELD: weights} if weights else {}
                document |= {name: own[i] for name, own in zip(rows.columns, lists, strict=True)}
                for line in ({"index": {"_id": id}}, document):
                    out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return len(rows)

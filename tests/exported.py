"""What tests of exports compare with: a catalogue's rows, and answers of other engines."""

import numpy as np
import pyarrow as pa


def columns_of(count, seed=0):
    """Metadata of rows: a number, a flag that may be missing, a text."""
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "price": rng.integers(0, 100, count).astype(float),
            "in_stock": pa.array(rng.random(count) < 0.5, mask=rng.random(count) < 0.1),
            "Brand name": [f"brand {i}" for i in rng.integers(0, 20, count)],
        }
    )


def rows_of(catalogue):
    """{id: row (h,)} of what a catalogue has open, by its codes alone."""
    rows = {}
    for part in catalogue.stored:
        matrix = part.segment.codes.to_scipy().toarray()
        alive = part.segment.alive
        for row in range(len(matrix)) if alive is None else np.flatnonzero(alive):
            number = int(part.segment.ids_of(np.array([row]))[0])
            id = catalogue.texts_of([number])[0] if catalogue.has_text_ids else number
            rows[id] = matrix[row]
    assert len(rows) == len(catalogue)
    return rows


def signed(latents, values, h):
    """(latents, values) of a row with signs "halves" as (latents, values) of both signs; entries
    from 2h on are a target's own."""
    row = np.zeros(h, np.float32)
    for latent, value in zip(latents, values, strict=True):
        assert value > 0
        if latent < 2 * h:
            assert row[latent % h] == 0
            row[latent % h] = value if latent < h else -value
    return np.flatnonzero(row), row[row != 0]


def assert_same_rows(catalogue, rows):
    """Rows that another library read, {id: (latents, values)}, are those of a catalogue."""
    expected = rows_of(catalogue)
    assert set(rows) == set(expected)
    for id, (latents, values) in rows.items():
        read = np.zeros_like(expected[id])
        read[np.asarray(latents, int)] = np.asarray(values, np.float32)
        np.testing.assert_array_equal(read, expected[id])
        assert list(latents) == sorted(latents) and 0 not in list(values)


def assert_same_metadata(catalogue, rows):
    """Metadata that another library read, {id: {name: value}}, is that of a catalogue."""
    expected = catalogue.metadata(list(rows)).to_pylist()
    assert list(rows.values()) == expected


def assert_same_answers(hits, answers, error=1e-5):
    """Answers of another engine, [[(id, score), …], …], are hits, but for ids of nearly equal
    scores."""
    for ids, scores, answer in zip(hits.ids, hits.scores, answers, strict=True):
        assert len(answer) == len(ids)
        np.testing.assert_allclose([score for _, score in answer], scores, rtol=0, atol=error)
        gaps = np.abs(np.diff(scores, prepend=np.inf, append=-np.inf))
        is_clear = (gaps[:-1] > error) & (gaps[1:] > error)
        is_clear[-1] = False  # The next score is not known.
        answered = np.array([id for id, _ in answer])
        assert is_clear.any()
        np.testing.assert_array_equal(answered[is_clear], ids[is_clear])

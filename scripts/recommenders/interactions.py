"""Read pairs of users and items, and split them into training, validation and test."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy.sparse import csr_array

from compressae.retrieval.errors import InputError

COUNTS = ("n_users", "n_items")
PAIRS = ("train_user", "train_item", "test_user", "test_item")


@dataclass(frozen=True)
class Split:
    """Interactions as matrices (n_users, n_items) of float32 ones, ids of each row ascending.

    They are disjoint. ``valid`` is for choices; ``test`` is read once.
    """

    train: csr_array
    valid: csr_array
    test: csr_array

    @property
    def n_users(self) -> int:
        return int(self.train.shape[0])

    @property
    def n_items(self) -> int:
        return int(self.train.shape[1])

    def whole(self) -> "Split":
        """Training and validation pairs merged."""
        return Split(csr_array(self.train + self.valid), _none(self.train), self.test)

    def without_validation(self) -> "Split":
        """The split without its validation pairs."""
        return Split(self.train, _none(self.train), self.test)


def fingerprint(pairs: csr_array) -> list[int]:
    """Number and checksum of pairs, to compare with a checkpoint."""
    ends, items = pairs.indptr.astype("<i8"), pairs.indices.astype("<i4")
    return [int(pairs.nnz), zlib.crc32(items.tobytes(), zlib.crc32(ends.tobytes()))]


def read_split(path: str | Path) -> Split:
    """Read the split of a file of pairs, without validation pairs.

    Args:
        path: an ``.npz`` of ``n_users`` and ``n_items`` (numbers) and of ``train_user``,
            ``train_item``, ``test_user``, ``test_item`` (1-D integers, ids from 0): pair p of a
            part is (user[p], item[p]), in any order. Every user has a training pair; those without
            test pairs do not count in evaluation. Or a folder with ``train.txt`` and ``test.txt``
            as LightGCN's public code has them: a line a user, its id and its items' ids.

    Raises:
        InputError: no such file; a line is no list of ids; an array is missing or of another
            form; an id is negative or too large; a pair is there twice, or in both parts; a user
            has no training pair.
    """
    arrays = _read_text(Path(path)) if Path(path).is_dir() else _read(Path(path))
    shape = (int(arrays["n_users"]), int(arrays["n_items"]))
    train, test = (_matrix(path, part, arrays, shape) for part in ("train", "test"))
    shared = csr_array(train.multiply(test)).tocoo()
    if shared.nnz:
        user, item = shared.row[0], shared.col[0]
        raise InputError(
            f"{path}: {shared.nnz:,} test pairs are training pairs too, the first user {user} with "
            f"item {item}; expected none: remove them from one of the two"
        )
    return Split(train, _none(train), test)


def hold_out(split: Split, share: float, seed: int) -> Split:
    """Move a random share of each user's training pairs to validation.

    Of c training pairs, share · c move, rounded to nearest; at least one stays.
    """
    if not 0 <= share < 1:
        raise InputError(f"validation share {share}; expected 0 ≤ share < 1")
    rank, counts = _shuffled_ranks(split.train, seed)
    held = rank < np.minimum(np.floor(share * counts + 0.5), counts - 1)
    return Split(_some(split.train, ~held), _some(split.train, held), split.test)


def bet_split(split: Split, seed: int) -> Split:
    """Split all pairs 50/25/25 per user at random: BET's protocol (arXiv 2310.14884).

    Of c pairs, ⌈c/2⌉ are for training and half of the others, rounded up, for validation. BET's
    public code masks only training pairs when it ranks, in validation and in test.
    """
    pairs = csr_array(split.train + split.valid + split.test)
    rank, counts = _shuffled_ranks(pairs, seed)
    first = np.ceil(counts / 2)
    second = first + np.ceil((counts - first) / 2)
    parts = (rank < first, (rank >= first) & (rank < second), rank >= second)
    return Split(*(_some(pairs, chosen) for chosen in parts))


def subset(split: Split, n_users: int, n_items: int) -> Split:
    """Keep the users and items of the most training pairs, renumbered.

    Users without a training pair among these items are dropped.
    """

    def most(counts: np.ndarray, wanted: int) -> np.ndarray:
        return np.sort(np.argsort(-counts, kind="stable")[:wanted])

    items = most(np.bincount(split.train.indices, minlength=split.n_items), n_items)
    users = most(np.diff(split.train[:, items].indptr), n_users)
    parts = [csr_array(x[users][:, items]) for x in (split.train, split.valid, split.test)]
    kept = np.diff(parts[0].indptr) > 0
    for part in (parts := [csr_array(part[kept]) for part in parts]):
        part.sort_indices()
    return Split(*parts)


def _shuffled_ranks(pairs: csr_array, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each stored pair in a random order of its user's, and that user's count (nnz,)."""
    counts = np.diff(pairs.indptr)
    users = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((np.random.default_rng(seed).random(pairs.nnz), users))
    rank = np.empty(pairs.nnz, np.int64)
    rank[order] = np.arange(pairs.nnz) - np.repeat(pairs.indptr[:-1], counts)
    return rank, counts[users]


def _some(pairs: csr_array, chosen: np.ndarray) -> csr_array:
    """The stored pairs where ``chosen`` (nnz,) is true."""
    counts = np.concatenate([[0], np.cumsum(chosen)])
    indptr, ids = counts[pairs.indptr], pairs.indices[chosen]
    return csr_array((np.ones(len(ids), np.float32), ids, indptr), shape=pairs.shape)


def _none(like: csr_array) -> csr_array:
    return csr_array(like.shape, dtype=np.float32)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [name for name in (*COUNTS, *PAIRS) if name not in file]:
                raise InputError(
                    f"{path}: no array {', '.join(missing)}; expected {', '.join(COUNTS + PAIRS)}"
                )
            arrays = {name: file[name] for name in (*COUNTS, *PAIRS)}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected an .npz of pairs") from None
    except (ValueError, BadZipFile, AttributeError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not an .npz of plain arrays; expected one of pairs") from error
    for name, array in arrays.items():
        ndim = 0 if name in COUNTS else 1
        if array.ndim != ndim or array.dtype.kind not in "iu":
            raise InputError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}; "
                f"expected integers of {ndim} dimension{'s' * (ndim != 1)}"
            )
    return arrays


def _read_text(folder: Path) -> dict[str, np.ndarray]:
    """Read train.txt and test.txt; the largest ids set the numbers of users and items."""
    arrays = {}
    for part in ("train", "test"):
        path = folder / f"{part}.txt"
        try:
            lines = [line.split() for line in path.read_text().splitlines()]
            rows = [np.array(line, np.int64) for line in lines if line]
        except FileNotFoundError:
            raise InputError(f"{folder}: no {part}.txt; expected train.txt and test.txt") from None
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{path}: {error}; expected a line a user, its id and its items' ids, with spaces"
            ) from error
        users, counts = [row[0] for row in rows], [len(row) - 1 for row in rows]
        arrays[f"{part}_user"] = np.repeat(np.array(users, np.int64), counts)
        arrays[f"{part}_item"] = np.concatenate([np.zeros(0, np.int64), *(r[1:] for r in rows)])
    for name in ("user", "item"):
        both = (arrays[f"{part}_{name}"].max(initial=-1) for part in ("train", "test"))
        arrays[f"n_{name}s"] = np.array(max(both) + 1)
    return arrays


def _matrix(
    path: str | Path, part: str, arrays: dict[str, np.ndarray], shape: tuple[int, int]
) -> csr_array:
    """Check the pairs of "train" or "test", as a matrix."""
    users, items = arrays[f"{part}_user"], arrays[f"{part}_item"]
    if len(users) != len(items):
        raise InputError(
            f"{path}: {part}_user has {len(users):,} entries and {part}_item {len(items):,}; "
            "expected as many, one of each a pair"
        )
    for name, ids, count in (("user", users, shape[0]), ("item", items, shape[1])):
        if len(ids) and (ids.min() < 0 or ids.max() >= count):
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(
                f"{path}: {part}_{name} holds {wrong}; expected ids from 0 to n_{name}s − 1 = "
                f"{count - 1}: number them anew, or correct n_{name}s"
            )
    keys = users.astype(np.int64) * shape[1] + items
    keys.sort()
    if np.any(again := keys[1:] == keys[:-1]):
        user, item = divmod(int(keys[1:][again][0]), shape[1])
        raise InputError(
            f"{path}: {int(again.sum()):,} {part} pairs are there twice, the first user {user} "
            f"with item {item}; expected each once: remove the copies (numpy.unique)"
        )
    counts = np.bincount(users, minlength=shape[0])
    if part == "train" and not counts.all():
        empty = np.flatnonzero(counts == 0)
        raise InputError(
            f"{path}: {len(empty):,} users have no training pair, the first {empty[0]}; expected "
            "one at least: leave such users out and number the others anew"
        )
    indptr = np.concatenate([[0], np.cumsum(counts)])
    ids = (keys % shape[1]).astype(np.int32)
    return csr_array((np.ones(len(ids), np.float32), ids, indptr), shape=shape)

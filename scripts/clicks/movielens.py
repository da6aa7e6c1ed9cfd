"""MovieLens-100k as clicks: a rating of 4 or 5 is one.

The data are GroupLens's (Harper and Konstan, "The MovieLens datasets", ACM TiiS 2015): for research
only, not to be redistributed without permission. They are no part of this package: RecBole's wheel
holds a copy, which ``fetch`` downloads through pip into a folder of the user's.
"""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clicks.examples import Bags, Examples, random_parts
from clicks.vocabulary import Vocabulary
from compressae.retrieval.errors import InputError

WHEEL = "recbole==1.2.1"
_INSIDE = "recbole/dataset_example/ml-100k/"
_FILES = {
    "ml-100k.inter": ("user_id:token", "item_id:token", "rating:float", "timestamp:float"),
    "ml-100k.user": (
        "user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token",
    ),
    "ml-100k.item": (
        "item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq",
    ),
}  # fmt: skip
FEATURES = ("user", "item", "age", "gender", "occupation", "zip", "year")
#: A rating from here on is a click.
LIKED = 4


def fetch(folder: Path) -> None:
    """Download RecBole's wheel through pip, unless it is there, and unpack the three files.

    Raises:
        InputError: pip failed; the message is its last line.
    """
    if all((folder / name).exists() for name in _FILES):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("recbole-*.whl")):
        command = [sys.executable, "-m", "pip", "download", WHEEL, "--no-deps", "-d", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise InputError(f"{' '.join(command[2:])}: {last}; put the wheel into {folder}")
    wheel = next(folder.glob("recbole-*.whl"))
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in _FILES:
                (folder / name).write_bytes(archive.read(_INSIDE + name))
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{wheel}: {error}; expected {WHEEL}, which holds {_INSIDE}") from error


def read(folder: Path, min_count: int = 2, seed: int = 0) -> Examples:
    """Read examples: age, release year, and how old the film was, are dense, too.

    Args:
        folder: of ml-100k.inter, .user and .item.
        min_count: fewer uses of a value in training make it rare.
        seed: of the random split.

    Raises:
        InputError: a file is missing, or a line is not of its form, by number.
    """
    pairs = _read(folder, "ml-100k.inter", lambda x: (x[0], x[1], float(x[2]), float(x[3])))
    users = {x[0]: x for x in _read(folder, "ml-100k.user", lambda x: (*x, float(x[1])))}
    items = {x[0]: x for x in _read(folder, "ml-100k.item", lambda x: (*x, _year(x[2])))}
    for user, item, *_ in pairs:
        if user not in users or item not in items:
            raise InputError(f"{folder}: user {user} or item {item} has no line; expected one each")
    labels = np.array([pair[2] >= LIKED for pair in pairs], np.float32)
    of_users = [users[pair[0]] for pair in pairs]
    of_items = [items[pair[1]] for pair in pairs]
    age = np.array([user[5] for user in of_users])
    year = np.array([item[4] for item in of_items])
    rated = 1970 + np.array([pair[3] for pair in pairs]) / (365.25 * 86400)
    dense = np.stack([age / 50, (year - 1980) / 20, np.log1p((rated - year).clip(min=0))], 1)
    columns = [
        [pair[0] for pair in pairs],
        [pair[1] for pair in pairs],
        *([user[column] for user in of_users] for column in (1, 2, 3, 4)),
        [item[2] for item in of_items],
    ]
    parts = random_parts(len(labels), seed)
    train = parts["train"]
    ids, rows = np.zeros((len(labels), len(FEATURES)), np.int32), {}
    for column, (name, values) in enumerate(zip(FEATURES, map(np.array, columns), strict=True)):
        vocabulary = Vocabulary()
        vocabulary.count(values[train])
        vocabulary.close(min_count)
        ids[:, column], rows[name] = vocabulary.encode(values), len(vocabulary)
    genres = [item[3].split() for item in of_items]
    lengths = np.array([len(x) for x in genres])
    offsets = np.concatenate([[0], lengths.cumsum()])
    flat = np.array([name for names in genres for name in names])
    vocabulary = Vocabulary()
    vocabulary.count(flat)
    vocabulary.close(1)
    rows["genres"] = len(vocabulary)
    bags = {"genres": Bags(vocabulary.encode(flat), offsets)}
    facts = {"min_count": min_count, "liked": LIKED, "source": WHEEL}
    return Examples(
        "movielens", labels, dense.astype(np.float32), ids, FEATURES, rows, parts, bags, facts=facts
    )


def _read(folder: Path, name: str, convert: Callable[[list[str]], tuple]) -> list[tuple]:
    """Lines of a file, converted."""
    path, columns = folder / name, _FILES[name]
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); expected the folder of ml-100k.inter, .user and "
            ".item of RecBole's wheel: --fetch downloads it"
        ) from error
    if not lines or tuple(lines[0].split("\t")) != columns:
        raise InputError(f"{path}, line 1: expected the columns {', '.join(columns)}, with tabs")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        try:
            if len(fields) != len(columns):
                raise ValueError(f"{len(fields)} fields; expected {len(columns)} with tabs between")
            rows.append(convert(fields))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
    return rows


def _year(text: str) -> float:
    """A film's year; one that is not known is the mean's."""
    return float(text) if text.strip().isdigit() else 1990.0

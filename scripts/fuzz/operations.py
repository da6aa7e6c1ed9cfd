"""Random changes of a catalogue by one process, beside readers in others, against brute force."""

import json
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy import sparse

from compressae.retrieval import Catalogue, InputError
from fuzz.place import memory

LATENTS = 9
#: Rows of the catalogue at most, states that are kept for readers, and rows of one operation.
MOST, STATES, FEW = 400, 400, 6


class State:
    """What a version holds: ids (n,) and rows (n, h) of small whole numbers."""

    def __init__(self, rows: dict[Any, np.ndarray]) -> None:
        self.rows = rows

    def save(self, path: Path) -> None:
        ids = np.array(list(self.rows), dtype=None if self.rows else np.int64)
        rows = np.array(list(self.rows.values())).reshape(-1, LATENTS)
        with path.with_suffix(".part").open("wb") as file:
            np.savez(file, ids=ids, rows=rows)
        path.with_suffix(".part").rename(path)

    @classmethod
    def load(cls, path: Path) -> "State":
        with np.load(path) as file:
            return cls(dict(zip(file["ids"].tolist(), file["rows"], strict=True)))

    def check(self, catalogue: Catalogue, rng: np.random.Generator) -> None:
        """Search at random and compare with brute force.

        Raises:
            AssertionError: an answer differs.
        """
        ids = list(self.rows)
        rows = np.array(list(self.rows.values())).reshape(-1, LATENTS)
        queries = random_rows(rng, 3)
        K = int(rng.integers(1, 12))
        options: dict[str, Any] = {}
        left = np.ones((3, len(ids)), bool)
        if rng.random() < 0.4:
            allowed = rng.random(len(ids)) < rng.random()
            names = [one for one, is_allowed in zip(ids, allowed, strict=True) if is_allowed]
            options["allowed"] = names if names else np.empty(0, np.int64)
            left &= allowed
        if rng.random() < 0.4:
            seen = rng.random((3, len(ids))) < rng.random()
            options["exclude"] = [
                [one for one, is_seen in zip(ids, own, strict=True) if is_seen] for own in seen
            ]
            left &= ~seen
        hits = catalogue.search(sparse.csr_array(queries), K, **options)
        for query, own, found, scores in zip(queries, left, hits.ids, hits.scores, strict=True):
            exact = dict(zip(ids, (rows @ query).tolist(), strict=True))
            wanted = sorted((exact[one] for one, is_left in zip(ids, own, strict=True) if is_left))
            wanted = wanted[::-1][:K] if query.any() else []
            real = scores > -np.inf
            assert scores[real].tolist() == wanted, (scores, wanted)
            names = found[real].tolist()
            assert len(set(names)) == len(names)
            assert [exact[name] for name in names] == wanted
            searchable = {one for one, is_left in zip(ids, own, strict=True) if is_left}
            assert set(names) <= searchable
            if not catalogue.has_text_ids:  # Ties by smaller id.
                order = sorted(searchable, key=lambda one: (-exact[one], one))
                assert names == order[: len(names)]


def random_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.choice([0, 0, -2, -1, 1, 2], (count, LATENTS)).astype(np.float32)


class Writer:
    """Makes random changes, and knows what each version holds."""

    def __init__(self, folder: Path, texts: bool, rng: np.random.Generator) -> None:
        self.rng, self.texts, self.folder = rng, texts, folder
        self.counter = 0
        rows = random_rows(rng, 20)
        ids = [self.name() for _ in range(20)] if texts else np.arange(20)
        state = dict(zip(list(ids), rows, strict=True))
        (folder / "states").mkdir()
        self.states = {1: State(state)}
        self.states[1].save(self.state_path(1))
        self.catalogue = Catalogue.create(
            folder / "catalogue", None, sparse.csr_array(rows), ids if texts else None
        )
        self.next_id = 20

    def name(self) -> str:
        self.counter += 1
        return f"{'é' * int(self.rng.integers(0, 4))}{self.counter}"

    def state_path(self, version: int) -> Path:
        return self.folder / "states" / f"{version}.npz"

    def some(self, ids: Any, most: int = FEW) -> list:
        ids = list(ids)
        count = min(int(self.rng.integers(1, most + 1)), len(ids))
        return [ids[i] for i in self.rng.permutation(len(ids))[:count]]

    def step(self) -> str:
        """Make one random operation; return its name."""
        kinds = ["add", "add", "remove", "update", "put", "block", "compact", "rollback"]
        kinds += ["reopen", "prune", "refused", "second writer"]
        kind = str(self.rng.choice(kinds))
        rows = self.states[self.catalogue.version].rows
        if kind == "add" and len(rows) > MOST:
            kind = "remove"
        getattr(self, "_" + kind.replace(" ", "_"))(dict(rows))
        return kind

    def commit(self, rows: dict, change: Any) -> None:
        """Make a change that leads to ``rows``; readers may see it as soon as it is made."""
        number = self.catalogue.version + 1
        state = State(rows)
        state.save(self.state_path(number))
        change()
        if self.catalogue.version == number:
            self.states[number] = state
            for old in [one for one in self.states if one <= number - STATES]:
                del self.states[old]
                self.state_path(old).unlink()

    def new(self, rows: dict) -> tuple[list, np.ndarray, bool]:
        """Ids and rows to add, and whether the ids are the catalogue's next ones."""
        count = int(self.rng.integers(1, FEW + 1))
        fresh = random_rows(self.rng, count)
        if self.texts:
            return [self.name() for _ in range(count)], fresh, False
        if self.rng.random() < 0.5:
            ids = list(range(self.next_id, self.next_id + count))
            self.next_id += count
            return ids, fresh, True
        free = [one for one in range(self.next_id) if one not in rows]
        ids = self.some(free, count) or [self.next_id]
        self.next_id = max(self.next_id, max(ids) + 1)
        return ids, fresh[: len(ids)], False

    def _add(self, rows: dict) -> None:
        ids, fresh, is_next = self.new(rows)
        rows |= dict(zip(ids, fresh, strict=True))

        def change() -> None:
            given = self.catalogue.add(sparse.csr_array(fresh), None if is_next else ids)
            assert list(given) == ids, (given, ids)

        self.commit(rows, change)

    def _remove(self, rows: dict) -> None:
        ids = self.some(rows, 12)
        if ids:
            self.commit(
                {one: row for one, row in rows.items() if one not in ids},
                lambda: self.catalogue.remove(ids),
            )

    def _update(self, rows: dict) -> None:
        ids = self.some(rows)
        if ids:
            fresh = random_rows(self.rng, len(ids))
            rows |= dict(zip(ids, fresh, strict=True))
            self.commit(rows, lambda: self.catalogue.update(ids, sparse.csr_array(fresh)))

    def _put(self, rows: dict) -> None:
        ids, fresh, _ = self.new(rows)
        known = self.some(rows, 2)
        ids, fresh = ids + known, np.concatenate([fresh, random_rows(self.rng, len(known))])
        order = self.rng.permutation(len(ids))
        ids, fresh = [ids[i] for i in order], fresh[order]
        rows |= dict(zip(ids, fresh, strict=True))

        def change() -> None:
            assert self.catalogue.put(sparse.csr_array(fresh), ids) == len(known)

        self.commit(rows, change)

    def _block(self, rows: dict) -> None:
        gone = self.some(rows)
        ids, fresh, is_next = self.new(rows)
        changed = [one for one in self.some(rows) if one not in gone]
        updated = random_rows(self.rng, len(changed))
        left = {one: row for one, row in rows.items() if one not in gone}
        left |= dict(zip(changed, updated, strict=True)) | dict(zip(ids, fresh, strict=True))
        back = gone[:1]  # Removed and added again in one version.
        again = random_rows(self.rng, len(back))
        left |= dict(zip(back, again, strict=True))

        def change() -> None:
            with self.catalogue.writing() as block:
                if gone:
                    block.remove(gone)
                block.add(sparse.csr_array(fresh), None if is_next else ids)
                if changed:
                    block.update(changed, sparse.csr_array(updated))
                if back:
                    block.add(sparse.csr_array(again), back)

        self.commit(left, change)

    def _compact(self, rows: dict) -> None:
        self.commit(rows, self.catalogue.compact)

    def _rollback(self, rows: dict) -> None:
        kept = [version.number for version in self.catalogue.versions()]
        number = int(self.rng.choice(kept))
        if number in self.states:
            self.commit(dict(self.states[number].rows), lambda: self.catalogue.rollback(number))

    def _reopen(self, rows: dict) -> None:
        verify = bool(self.rng.random() < 0.3)
        self.catalogue = Catalogue.open(self.catalogue.path, verify=verify)

    def _prune(self, rows: dict) -> None:
        self.catalogue.prune(int(self.rng.integers(1, 6)))

    def _refused(self, rows: dict) -> None:
        before = self.catalogue.version
        one = sparse.csr_array(random_rows(self.rng, 1))
        unknown = "nobody" if self.texts else 1 << 40
        known = self.some(rows, 1)
        attempts: list[Callable[[], Any]] = [
            lambda: self.catalogue.remove([*known, unknown]),
            lambda: self.catalogue.update([unknown], one),
        ]
        if known:
            attempts.append(lambda: self.catalogue.add(one, known))
        for attempt in attempts:
            try:
                attempt()
            except InputError:
                continue
            raise AssertionError("a change that cannot be was made")
        assert self.catalogue.version == before

    def _second_writer(self, rows: dict) -> None:
        other = Catalogue.open(self.catalogue.path)
        with self.catalogue.writing():
            try:
                other.remove(self.some(rows, 1))
            except InputError as error:
                assert "another process is writing" in str(error), error
                return
        raise AssertionError("a second writer was let in")


def read(folder: Path, texts: bool, seed: int, gate: Any, done: Any, said: Any) -> None:
    """Search at random versions until ``done``; put the number of checks, or what failed."""
    rng = np.random.default_rng(seed)
    checks = versions = 0
    try:
        catalogue = Catalogue.open(folder / "catalogue")
        state = State.load(folder / "states" / f"{catalogue.version}.npz")
        state.check(catalogue, rng)  # Compile; then all begin together.
        gate.wait()
        while not done.is_set():
            began = time.perf_counter()
            if rng.random() < 0.3:
                if rng.random() < 0.1:
                    catalogue = Catalogue.open(folder / "catalogue")
                else:
                    catalogue.refresh()
                state = State.load(folder / "states" / f"{catalogue.version}.npz")
                versions += 1
            state.check(catalogue, rng)
            checks += 1
            time.sleep(time.perf_counter() - began)  # Leaves the writer most of a processor.
    except BaseException as error:
        said.put(f"reader {seed}, version {catalogue.version}: {error!r}")
        return
    said.put((checks, versions))


@click.command()
@click.option("--count", default=100_000, show_default=True, help="Operations, half on each kind.")
@click.option("--seed", default=0, show_default=True)
@click.option("--readers", default=2, show_default=True, help="Processes that search meanwhile.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where; in memory if there is a place."
)
def operations(count: int, seed: int, readers: int, folder: Path | None) -> None:
    """Change a catalogue at random, and search it, against brute force.

    One process adds, removes, updates, merges, rolls back, prunes, reopens, and tries what must be
    refused; others search the versions that they see. Every answer is compared with brute force
    over what the version should hold. Half of the operations are on ids of whole numbers, half on
    texts. Exits with 1 at the first difference.
    """
    started = time.perf_counter()
    counts: Counter[str] = Counter()
    for texts in (False, True):
        with tempfile.TemporaryDirectory(dir=folder or memory()) as home:
            rng = np.random.default_rng([seed, texts])
            writer = Writer(Path(home), texts, rng)
            context = multiprocessing.get_context("spawn")
            gate = context.Barrier(readers + 1, timeout=120)
            done, said = context.Event(), context.Queue()
            others = [
                context.Process(target=read, args=(Path(home), texts, seed + r, gate, done, said))
                for r in range(readers)
            ]
            for process in others:
                process.start()
            try:
                gate.wait()
                for done_so_far in range(count // 2):
                    if done_so_far % 5000 == 0:
                        kind = "texts" if texts else "whole numbers"
                        click.echo(f"{done_so_far:,} operations on {kind}", err=True)
                    counts[writer.step()] += 1
                    writer.states[writer.catalogue.version].check(writer.catalogue, rng)
                    if not said.empty():
                        break
                counts["versions"] += writer.catalogue.version
            finally:
                done.set()
                answers = [said.get(timeout=120) for _ in others]
                for process in others:
                    process.join()
            for answer in answers:
                if isinstance(answer, str):
                    raise click.ClickException(answer)
                counts["searches of readers"] += 3 * answer[0]
                counts["versions that readers opened"] += answer[1]
    seconds = time.perf_counter() - started
    click.echo(json.dumps({"seed": seed, "seconds": round(seconds), **counts}, indent=1))

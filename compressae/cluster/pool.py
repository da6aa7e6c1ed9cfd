"""Run units in processes of one machine."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from compressae.cluster.encode import encode_unit
from compressae.cluster.units import Done, Failure, Job, Unit
from compressae.retrieval.errors import InputError

#: How often workers may die before the job gives up.
_TRIES = 3


@dataclass(frozen=True)
class Pool:
    """Runs units in worker processes.

    Attributes:
        workers: processes.
        work: what they do with a unit.
    """

    workers: int
    work: Callable[[Job, Unit], Done | Failure] = encode_unit

    def run(self, job: Job, units: list[Unit]) -> Iterator[Done | Failure]:
        """See ``Runner``: units of a process that died are given to others.

        Raises:
            InputError: processes died again and again.
        """
        left = {unit.number: unit for unit in units}
        context = _context()
        for _ in range(_TRIES):
            with ProcessPoolExecutor(min(self.workers, len(left)), context) as pool:
                futures = {pool.submit(self.work, job, unit): n for n, unit in left.items()}
                try:
                    for future in as_completed(futures):
                        outcome = future.result()
                        del left[futures[future]]
                        yield outcome
                except BrokenProcessPool:
                    continue
            return
        raise InputError(
            f"{len(left)} shards: worker processes died {_TRIES} times (out of memory?); use fewer "
            "--workers or --shard-rows, and run the command again"
        )


def _context() -> multiprocessing.context.BaseContext:
    """How processes start: from one that has imported the package, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["compressae.cluster.encode"])
    return context

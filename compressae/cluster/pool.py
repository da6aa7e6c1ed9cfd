"""Run units in processes of one machine."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass

from compressae.cluster.encode import encode_unit
from compressae.cluster.units import Failure, FinishedUnit, Job, Unit
from compressae.retrieval.errors import InputError

#: How often processes may die with no unit finished in between.
_TRIES = 3


@dataclass(frozen=True)
class Pool:
    """Runs units in worker processes.

    Attributes:
        workers: processes.
        work: what they do with a unit.
    """

    workers: int
    work: Callable[[Job, Unit], FinishedUnit | Failure] = encode_unit

    def run(self, job: Job, units: list[Unit]) -> Iterator[FinishedUnit | Failure]:
        """See ``Runner``: units of a process that died are given to others.

        Raises:
            InputError: processes died again and again.
        """
        remaining = {unit.number: unit for unit in units}
        context, tries = _context(), 0
        while remaining and tries < _TRIES:
            tries += 1
            with ProcessPoolExecutor(min(self.workers, len(remaining)), context) as pool:
                try:
                    with suppress(BrokenProcessPool):  # The next pool takes what remains.
                        numbers = {
                            pool.submit(self.work, job, unit): number
                            for number, unit in remaining.items()
                        }
                        for future in as_completed(numbers):
                            outcome = future.result()
                            del remaining[numbers[future]]
                            tries = 0
                            yield outcome
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
        if remaining:
            raise InputError(
                f"{len(remaining)} shards: worker processes died {_TRIES} times (out of memory?); "
                "use fewer --workers or --shard-rows, and run the command again"
            )


def _context() -> multiprocessing.context.BaseContext:
    """How processes start: from one that has imported the package, where the system can fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["compressae.cluster.encode"])
    return context

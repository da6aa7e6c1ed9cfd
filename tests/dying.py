"""Work of a process that dies once: what a cluster's worker may do."""

import os
from pathlib import Path


def dies_once(job, unit):
    """Encode a unit, but end the process at the first call for one of number 1."""
    mark = Path(job.output).parent / "died"
    if unit.number == 1 and not mark.exists():
        mark.touch()
        os._exit(1)
    from compressae.cluster.encode import encode_unit

    return encode_unit(job, unit)


def always_dies(job, unit):
    """End the process."""
    os._exit(1)

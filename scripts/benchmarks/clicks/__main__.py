#!/usr/bin/env python3
"""Click models over compressed tables: `python scripts/benchmarks/clicks --data planted -o OUT`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.clicks.command import main

if __name__ == "__main__":
    main()

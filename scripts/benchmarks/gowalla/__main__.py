#!/usr/bin/env python3
"""Recommenders on Gowalla: `python scripts/benchmarks/gowalla`.

DATA is an .npz of pairs (see scripts/recommenders/interactions.py for its arrays), or a folder with
LightGCN's train.txt and test.txt.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gowalla.command import main

if __name__ == "__main__":
    main()

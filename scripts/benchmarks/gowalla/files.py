"""Write results as files that are whole or not there."""

import json
from pathlib import Path
from typing import Any

from compressae.retrieval.io.atomic import replacing


def write(path: Path, text: str) -> None:
    """Write a text file, replacing an older one."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, record: Any) -> None:
    """Write a record as JSON, replacing an older one."""
    write(path, json.dumps(record, indent=2) + "\n")

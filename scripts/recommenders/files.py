"""Results as files that are whole or not there."""

import json
from pathlib import Path
from typing import Any

from compressae.retrieval.files import replacing


def write(path: Path, text: str) -> None:
    """Text in place of what stands there."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, record: Any) -> None:
    """The same of what JSON can hold."""
    write(path, json.dumps(record, indent=2) + "\n")

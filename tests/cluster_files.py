"""What the files of a folder hold."""

from pathlib import Path


def data_of(folder: Path) -> dict[str, bytes]:
    """{path: content} of all files in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

"""The rooms: who may import whom, how long files are, and what the archives hold."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("compressae", "retrieval", "kernels")
#: What each room may import of the package.
ALLOWED = {
    "retrieval": ("compressae.retrieval", "compressae.kernels"),
    "kernels": ("compressae.kernels",),
}


def files_of(room: str) -> list[Path]:
    """The room's Python files, the links under compressae/ not followed."""
    links = [ROOT / "compressae" / "retrieval", ROOT / "compressae" / "kernels"]
    files = sorted((ROOT / room).rglob("*.py"))
    if room == "compressae":
        files = [f for f in files if not any(link in f.parents for link in links)]
    return files


def imported(source: str) -> set[str]:
    """Full names that a module's import statements reach, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def faults(room: str, source: str) -> list[str]:
    """Imports that a file of the room may not have."""
    bad = []
    for name in imported(source):
        top = name.split(".")[0]
        allowed = ALLOWED.get(room, ("compressae",))
        inside = any(name == home or name.startswith(home + ".") for home in allowed)
        if top in ("", "retrieval", "kernels") or (top == "compressae" and not inside):
            bad.append(name)
    return sorted(bad)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_downward(room):
    files = files_of(room)
    assert files
    found = {str(f.relative_to(ROOT)): faults(room, f.read_text("utf-8")) for f in files}
    assert {name: bad for name, bad in found.items() if bad} == {}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("kernels", "from compressae.retrieval.errors import InputError"),
        ("kernels", "def f():\n    import compressae.model"),
        ("retrieval", "from compressae.model import CompresSAE"),
        ("retrieval", "from compressae import model"),
        ("retrieval", "import compressae"),
        ("retrieval", "from kernels import topk"),
        ("retrieval", "from .errors import InputError"),
        ("compressae", "import retrieval.codes"),
    ],
)
def test_the_import_check_finds_a_fault(room, source):
    assert faults(room, source)


def test_the_import_check_passes_downward_imports():
    assert not faults("retrieval", "import numpy\nfrom compressae.kernels import topk")
    assert not faults("compressae", "from compressae.retrieval.errors import InputError")


def test_no_file_is_long():
    folders = [*ROOMS, "tests", "scripts"]
    files = [f for folder in folders for f in files_of(folder)]
    lines = {str(f.relative_to(ROOT)): len(f.read_text("utf-8").splitlines()) for f in files}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_importing_is_silent_and_cheap():
    code = (
        "import sys, compressae; heavy = {'torch', 'numba', 'scipy', 'numpy'} & set(sys.modules); "
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_public_names_exist():
    import compressae

    assert all(getattr(compressae, name) for name in compressae.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = compressae.nothing


@pytest.mark.slow
def test_wheel_from_sdist_holds_the_rooms_as_real_files(tmp_path):
    # sdist first, then the wheel out of the sdist: what an index would serve.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
        links = [
            i.filename for i in archive.infolist() if i.external_attr >> 16 & 0o170000 == 0o120000
        ]
    version = wheel.name.split("-")[1]
    assert {name.split("/")[0] for name in held} == {
        "compressae",
        f"compressae-{version}.dist-info",
    }
    assert links == []
    expected = {}
    for room in ROOMS:
        prefix = "" if room == "compressae" else "compressae/"
        for file in files_of(room):
            expected[prefix + file.relative_to(ROOT).as_posix()] = file.read_bytes()
    for folder in ("data", "pages"):
        for file in (ROOT / "compressae" / folder).iterdir():
            if file.is_file():
                expected[f"compressae/{folder}/{file.name}"] = file.read_bytes()
    assert {name for name in held if name.startswith("compressae/")} == set(expected)
    assert [name for name, content in expected.items() if held[name] != content] == []
    assert any(name.startswith("compressae/kernels/topk/") for name in expected)
    assert "compressae/data/WORDNET_LICENSE.txt" in expected

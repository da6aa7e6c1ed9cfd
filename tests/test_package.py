"""The rooms: who may import whom, what a search imports, and what the archives hold."""

import os
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import rooms
import yaml

ROOT = Path(__file__).parents[1]


def test_imports_go_down_and_in_no_circle():
    arrows = rooms.graph(ROOT)
    assert len(arrows) > 100 and rooms.climbs(arrows) == [] and rooms.circles(arrows) == []


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("compressae.kernels.topk", "compressae.retrieval.errors"),
        ("compressae.retrieval.metrics", "compressae.model"),
        ("compressae.training.loop", "compressae.evaluation.drift"),
        ("compressae.retrieval.codes.sparse", "compressae.retrieval.index.exact"),
        ("compressae.retrieval.index.inverted", "compressae.retrieval.index.two_stage"),
        ("compressae.coding.coder", "compressae.coding.compress"),
    ],
)
def test_the_check_finds_an_import_that_climbs(module, target):
    assert rooms.climbs({module: {target}}) == [f"{module} -> {target}"]
    assert rooms.climbs({target: {module}}) == [] or "two_stage" in target


def test_the_check_finds_a_circle_and_reads_every_form_of_import():
    assert rooms.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    known = {"compressae.model", "compressae.retrieval", "compressae.retrieval.errors"}
    for source in (
        "import compressae.model",
        "from compressae.model import CompresSAE",
        "def f():\n    from compressae import model",
    ):
        assert rooms.imports(source, known) == {"compressae.model"}
    only_types = "if TYPE_CHECKING:\n    from compressae.model import CompresSAE"
    assert rooms.imports(only_types, known) == set()
    assert rooms.imports(only_types, known, types=True) == {"compressae.model"}


def test_every_module_has_its_row():
    """A new room is placed on its floor before anything else is said of it."""
    for floor, rows in rooms.FLOORS.items():
        placed = {room for row in rows for room in row.split()}
        inside = {
            name[len(floor) + 1 :].split(".")[0]
            for name in rooms.modules(ROOT)
            if name.startswith(floor + ".")
        }
        assert inside == placed, floor


def test_the_root_links_lead_into_the_package():
    for room in ("retrieval", "kernels"):
        link = ROOT / room
        if not link.is_symlink():  # A checkout without links: a small text file of the target.
            assert link.is_file() and link.read_text() == f"compressae/{room}"
        else:
            assert os.readlink(link) == f"compressae/{room}"


def test_the_root_does_not_shadow_another_package_named_kernels(tmp_path):
    """transformers needs Hugging Face's ``kernels``; a process in the root must still find it."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("owner = 'another package'")
    code = f"import sys; sys.path.append({str(tmp_path)!r}); import kernels; print(kernels.owner)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "another package", done.stderr


def test_importing_is_silent_and_cheap():
    code = (
        "import sys, compressae; heavy = {'torch', 'numba', 'scipy', 'numpy'} & set(sys.modules); "
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_public_names_exist():
    import compressae
    import compressae.retrieval
    import compressae.tables

    for package in (compressae, compressae.retrieval, compressae.tables):
        assert all(getattr(package, name) for name in package.__all__)
        assert set(package.__all__) <= set(dir(package))
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
    for file in (ROOT / "compressae").rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            expected[file.relative_to(ROOT).as_posix()] = file.read_bytes()
    assert {name for name in held if name.startswith("compressae/")} == set(expected)
    assert [name for name, content in expected.items() if held[name] != content] == []
    assert any(name.startswith("compressae/kernels/topk/") for name in expected)
    assert {"compressae/data/WORDNET_LICENSE.txt", "compressae/py.typed"} <= set(expected)
    described = message_from_bytes(held[f"compressae-{version}.dist-info/METADATA"])
    assert "Typing :: Typed" in described.get_all("Classifier")
    assert {"gpu", "serve"} <= set(described.get_all("Provides-Extra"))


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "compressae" / "py.typed").is_file()


def test_classifiers_exist_and_go_with_the_settings():
    known = pytest.importorskip("trove_classifiers", reason="needs trove_classifiers (hatchling)")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["classifiers"]) <= known.classifiers
    minors = [int(c.rpartition(".")[2]) for c in project["classifiers"] if ":: 3." in c]
    assert project["requires-python"] == f">=3.{min(minors)}"


def test_what_is_cited_is_this_version_and_its_paper():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]
    (paper,) = citation["references"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert paper["url"].endswith("2505.11388") and {"type", "title", "authors"} <= set(paper)
    for shown in (
        f"{{{paper['title']}}}",
        f"{{{paper['doi']}}}",
        f"version = {{{project['version']}}}",
    ):
        assert shown in readme

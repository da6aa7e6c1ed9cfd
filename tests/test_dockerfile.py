"""The Dockerfile, read: no image is built here."""

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from compressae.cli import main

ROOT = Path(__file__).parents[1]
FILE = ROOT / "Dockerfile"


def instructions():
    """(name, rest) of each instruction, its lines joined."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line]


def of(name):
    return [rest for found, rest in instructions() if found == name]


def shown_runs():
    """Arguments after the image in every `docker run` of the comment and the guide."""
    text = FILE.read_text() + (ROOT / "docs" / "guide.md").read_text()
    return [shlex.split(rest) for rest in re.findall(r"docker run .* compressae (.*)$", text, re.M)]


def test_the_entry_point_serves_beyond_the_container():
    (entry,) = map(json.loads, of("ENTRYPOINT"))
    assert entry == ["compressae", "serve", "/catalogue", "--host", "0.0.0.0"]


@pytest.mark.parametrize("arguments", [[], *shown_runs()], ids=" ".join)
def test_the_command_line_is_accepted(arguments):
    (entry,) = map(json.loads, of("ENTRYPOINT"))
    program, name, *rest = entry + arguments
    assert program == "compressae" and len(shown_runs()) == 2
    settings = main.get_command(None, name).make_context(name, rest).params
    assert str(settings["index"]) == "/catalogue" and settings["host"] == "0.0.0.0"
    assert [str(settings["port"])] == of("EXPOSE")
    assert f":{settings['port']}/health" in of("HEALTHCHECK")[0]


def test_what_it_copies_exists_and_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    sources = [name for rest in of("COPY") for name in rest.split()[:-1]]
    assert sorted(sources) == sorted(allowed)
    assert all((ROOT / name).exists() for name in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for needed in (project["readme"], *project["license-files"]):
        assert any(fnmatch(needed, pattern) for name in sources for pattern in (name, f"{name}/*"))


def test_it_installs_the_pinned_cpu_torch_before_the_package():
    installs = [rest for rest in of("RUN") if rest.startswith("pip install")]
    assert len(installs) == 2 and all("-c constraints.txt" in line for line in installs)
    assert "whl/cpu torch" in installs[0] and ".[${EXTRAS}]" in installs[1]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert of("ARG") == ["EXTRAS=serve"] and {"serve", "sql"} <= set(extras)


def test_the_user_is_not_root():
    names = [name for name, _ in instructions()]
    assert of("USER") == ["compressae"] and names.index("USER") < names.index("ENTRYPOINT")

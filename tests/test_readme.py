"""The README's Python runs, and its commands exist."""

import re
from pathlib import Path

import pytest

from compressae.cli import main

README = Path(__file__).parents[1] / "README.md"


def test_python_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(block, names)
    said = re.search(r"([\d.]+) bytes an item, recall ([\d.]+)", capsys.readouterr().out)
    assert float(said[1]) == pytest.approx(16 * 12 / 8 + 1 + 16, abs=0.01)
    assert float(said[2]) > 0.7
    assert names["hits"].ids[:, 0].tolist() == [0, 1, 2]
    assert names["rows"].shape == (2, 2, 64) and names["table"].num_parameters == 6400
    assert names["best"].widths.sum() == 6400 and len(names["search"].trials) == 10


def test_commands_and_options_exist():
    commands = re.findall(r"^    compressae (\w+) (.*)$", README.read_text(encoding="utf-8"), re.M)
    assert {name for name, _ in commands} == {
        "plan", "train", "evaluate", "index", "tune", "search", "update", "inspect", "check",
    }  # fmt: skip
    for name, rest in commands:
        options = {o for parameter in main.get_command(None, name).params for o in parameter.opts}
        for option in re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", rest.split("#")[0]):
            assert option in options, f"{name} {option}"


@pytest.mark.parametrize("script", ["demo", "test", "gpu"])
def test_the_commands_are_executable(script):
    path = README.parent / "scripts" / script
    assert path.stat().st_mode & 0o111 and f"scripts/{script}" in README.read_text()

"""Completion in shells: the scripts that docs/cli.md names, and what they are answered."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: The console script, and a check that completing a command's name imports nothing heavy.
PROGRAM = """
import atexit, sys
sys.argv[0] = "compressae"
atexit.register(lambda: print(*sorted({"torch", "numba"} & set(sys.modules)), file=sys.stderr))
from compressae.cli import main
main()
"""


def run(instruction, **variables):
    """Run ``compressae`` with _COMPRESSAE_COMPLETE set, as a shell does."""
    environment = {**os.environ, "_COMPRESSAE_COMPLETE": instruction, **variables}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done


def complete(*words):
    """What bash is offered for the last word, with the type of each: ["plain,train"]."""
    return run(
        "bash_complete", COMP_WORDS=" ".join(("compressae", *words)), COMP_CWORD=str(len(words))
    ).stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_the_script_that_the_page_names(shell):
    page = (ROOT / "docs" / "cli.md").read_text()
    assert f"_COMPRESSAE_COMPLETE={shell}_source compressae" in page
    script = run(f"{shell}_source").stdout
    assert re.search(rf"_COMPRESSAE_COMPLETE={shell}_complete", script)
    assert re.search(r"complet\w* .*compressae|compdef .*compressae", script)


def test_names_of_commands_are_completed_without_an_import():
    done = run("bash_complete", COMP_WORDS="compressae t", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,train", "plain,tune"]
    assert done.stderr.strip() == ""


def test_options_and_paths_are_completed():
    assert complete("--v") == ["plain,--version"]
    assert complete("serve", "--ho") == ["plain,--host"]
    assert complete("serve", "ind") == ["file,ind"]


def test_a_path_that_is_not_there_yet_does_not_stop_completion():
    assert complete("serve", "none", "--ho") == ["plain,--host"]

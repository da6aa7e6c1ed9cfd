"""Calling the command line in this process, as a user would."""

from click.testing import CliRunner

from compressae.cli import main


def call(*arguments):
    """Exit code, stdout and stderr of a command."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def succeed(*arguments):
    """Stdout of a command that ends well."""
    code, out, err = call(*arguments)
    assert code == 0, err
    return out


def refused(folder, said, *arguments):
    """Exit code 1 or 2, one line, no traceback, nothing written into the folder."""
    before = _snapshot(folder)
    code, out, err = call(*arguments)
    last = err.strip().splitlines()[-1]
    assert code in (1, 2) and out == "" and last.startswith("Error: "), (code, out, err)
    assert said in last and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("Error")]) == 1
    assert _snapshot(folder) == before


def _snapshot(folder):
    """Every file and what it holds, and every folder."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}

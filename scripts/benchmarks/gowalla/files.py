"""Write results as files that are whole or not there, with the command that made them."""

import json
from pathlib import Path
from typing import Any

import click
from benchmarks.catalogue.rows import about
from click.core import ParameterSource

from compressae.retrieval.io.atomic import replacing


def write(path: Path, text: str) -> None:
    """Write a text file, replacing an older one."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, record: Any) -> None:
    """Write a record as JSON, replacing an older one."""
    write(path, json.dumps(record, indent=2) + "\n")


def origin() -> dict[str, Any]:
    """Machine, commit, versions and command of a record; the command names no path."""
    context = click.get_current_context(silent=True)
    words = ["python scripts/benchmarks/gowalla"]
    for parameter in context.command.params if context else ():
        name = str(parameter.name)
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            words += _words(parameter, context.params[name])
    if context:
        words.insert(1, str(context.info_name))
    return about(" ".join(words), ("scipy",))


def _words(parameter: click.Parameter, value: Any) -> list[str]:
    """A parameter as it was given; a path is the parameter's name."""
    if isinstance(parameter.type, click.Path):
        path = str(parameter.name).upper()
        return [path] if isinstance(parameter, click.Argument) else [parameter.opts[0], path]
    if isinstance(value, bool):
        return [(parameter.opts if value else parameter.secondary_opts)[0]]
    values = value if parameter.multiple else [value]  # type: ignore[attr-defined]
    return [
        word
        for one in values
        for word in (parameter.opts[0], *map(str, one if isinstance(one, tuple) else (one,)))
    ]

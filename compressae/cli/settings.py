"""Options of a command from a YAML file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

#: Options that take lists.
_LISTS = ("methods", "code_bytes")


def settings_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--settings, a YAML file of the command's options by name; the command line wins."""
    return click.option(
        "--settings",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="A YAML file of the options here, such as 'queries: 500'; the command line wins.",
    )(function)


def _load(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is not None:
        context.default_map = {**(context.default_map or {}), **_read(context.command, path)}


def _read(command: click.Command, path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("an alias, by which a short file stands for a huge one")
        options = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise click.UsageError(f"{path}: no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(options, dict):
        raise click.UsageError(f"{path}: expected options by name, such as 'queries: 500'")
    names = {
        option.lstrip("-"): parameter.name
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if parameter.name not in ("settings", "help")
    }
    for name in options:
        if str(name) not in names:
            known = ", ".join(sorted(option for option in names if len(option) > 1))
            raise click.UsageError(f"{path}: no option {name!r}; expected some of {known}")
    defaults: dict[str, Any] = {}
    for name, value in options.items():
        parameter = str(names[str(name)])
        if isinstance(value, list | dict) and parameter not in _LISTS:
            raise click.UsageError(f"{path}: {name}: {value!r}; expected one value")
        if value is not None:  # As if written on the command line.
            defaults[parameter] = value if parameter in _LISTS else str(value)
    return defaults

"""Command info: describe an artifact or a table."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.retrieval.io.artifacts import Config, load_artifact, read_config
from compressae.retrieval.io.embeddings import open_embeddings

#: Settings of an artifact that the summary shows, by kind.
_SHOWN = {
    "model": ("dim", "latents", "nonzeros"),
    "codes": ("rows", "latents", "model_id"),
    "inverted": ("similarity",),
}


@click.command(cls=common.Command, examples=("info index", "info model --json", "info items.npy"))
@click.argument("artifact", type=click.Path(path_type=Path))
@common.json_option
def info(artifact: Path, as_json: bool) -> None:
    """Describe ARTIFACT, a saved folder or a table of embeddings, and check its files.

    --json prints all of its config.
    """
    if not (artifact / "config.json").exists():
        items = open_embeddings(artifact)
        table = {"kind": "embeddings", "rows": len(items), "dim": items.shape[1]}
        common.say({**table, "dtype": items.dtype_name, "bytes": items.nbytes}, as_json)
        return
    config = read_config(artifact)
    load_artifact(artifact, config.kind)
    whole = {**asdict(config), "bytes": config.bytes}
    common.say(whole if as_json else _summary(config), as_json)


def _summary(config: Config) -> dict[str, Any]:
    """Summarise a config: kind, shapes, settings, bytes and format."""
    settings = config.settings
    lines: dict[str, Any] = {"kind": config.kind}
    # An index records its model and its codes as parts.
    parts = {config.kind: settings}
    parts |= {name: settings[name] for name in ("model", "packed", "codes") if name in settings}
    for kind, part in parts.items():
        form = "codes" if kind == "packed" else kind
        lines |= {name: part[name] for name in _SHOWN.get(form, ()) if name in part}
        recipe = part.get("made") or part.get("training") or {}
        words = [f"{k} {v}" for k, v in recipe.items() if isinstance(v, str | int | float) and v]
        if words:
            lines["training" if form == "model" else "codes"] = ", ".join(words)
    search = settings.get("search")
    if search:
        candidates = search["candidates"] or "3,000 or 10 K"
        tuned = f", tuned for {search['tuned'][0]} results" if search["tuned"][0] else ""
        lines["search"] = (
            f"{search['query_nonzeros']} query nonzeros, {candidates} candidates{tuned}"
        )
    return lines | {
        "bytes": f"{config.bytes:,} in {len(config.files)} files, checksums match",
        "format": f"{config.format_version}, written by compressae {config.library_version}",
    }

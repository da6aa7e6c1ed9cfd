"""Command info: describe an artifact or a table."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from compressae.cli import common
from compressae.retrieval.index.compressed import QUERY_NONZEROS, SearchSettings
from compressae.retrieval.io.artifacts import Config, load_artifact, read_config
from compressae.retrieval.store import KIND as CATALOGUE
from compressae.retrieval.store import Catalogue
from compressae.retrieval.store.sharded import ShardedCatalogue, has_catalogues
from compressae.retrieval.store.shards import is_sharded, read_manifest

#: Settings of an artifact that the summary shows, by kind.
_SHOWN = {
    "model": ("dim", "latents", "nonzeros"),
    "codes": ("rows", "latents", "model_id"),
    "catalogue": ("similarity",),
    "quantizer": ("latents", "model_id"),
}


@click.command(cls=common.Command, examples=("info index", "info model --json", "info items.npy"))
@click.argument("artifact", type=common.TABLE)
@click.option(
    "--verify",
    is_flag=True,
    help="Of an index: read every file and compare it with its checksum, and the lists with the "
    "codes.",
)
@common.column_option
@common.json_option
def info(artifact: Path, verify: bool, as_json: bool) -> None:
    """Describe ARTIFACT, a saved folder or a table of embeddings, and check its files.

    Of an index it shows the versions that are kept. --json prints all of its config.
    """
    if has_catalogues(artifact):
        shards = ShardedCatalogue(artifact)
        lines = {"kind": "catalogues of shards", "shards": len(shards.shards), "rows": len(shards)}
        common.say({**lines, "bytes": shards.nbytes}, as_json)
        return
    if is_sharded(artifact):
        manifest = read_manifest(artifact)
        lines = {"kind": "codes in shards", "shards": len(manifest.shards), "rows": manifest.rows}
        common.say({**lines, "ids": manifest.ids, "model_id": manifest.model_id}, as_json)
        return
    if not (artifact / "config.json").exists():
        items = common.open_table(artifact)
        table = {"kind": "embeddings", "rows": len(items), "dim": items.shape[1]}
        common.say({**table, "dtype": items.dtype_name, "bytes": items.nbytes}, as_json)
        return
    config = read_config(artifact)
    if config.kind == CATALOGUE:
        common.say(_catalogue(artifact, as_json, verify), as_json)
        return
    load_artifact(artifact, config.kind)
    whole = {**asdict(config), "bytes": config.bytes}
    common.say(whole if as_json else _summary(config), as_json)


def _catalogue(path: Path, as_json: bool, verify: bool) -> dict[str, Any]:
    """Describe a catalogue: its settings, the newest version, and those that are kept."""
    config, catalogue = read_config(path), Catalogue.open(path, verify=verify)
    versions = catalogue.versions()
    newest = versions[-1]
    if as_json:
        return {**asdict(config), "versions": [asdict(version) for version in versions]}
    lines = _summary(config)
    del lines["bytes"], lines["rows"]  # Rows as they were when it was made.
    held = sum(segment.rows for segment in newest.segments)
    lines |= {
        "ids": config.settings["ids"],
        "metadata": ", ".join(f"{name} {type}" for name, type in catalogue.columns.items())
        or "none",
        "version": f"{newest.number} of {newest.created}: {newest.rows:,} rows in "
        f"{len(newest.segments)} segments, {held - newest.rows:,} removed rows among them",
        "bytes": f"{newest.bytes + config.bytes:,}" + (", verified" if verify else ""),
    }
    if newest.search is not None:
        lines["search"] = _search(newest.search)
    for version in versions[:-1]:
        lines[f"version {version.number}"] = (
            f"{version.created}, {version.rows:,} rows: {version.change}"
        )
    return lines


def _search(search: SearchSettings) -> str:
    """How an index is searched unless told, in words."""
    nonzeros = search.query_nonzeros or QUERY_NONZEROS
    tuned = f", tuned for {search.tuned[0]} results" if search.tuned[0] else ""
    return f"{nonzeros} query nonzeros, {search.candidates or '3,000 or 10 K'} candidates{tuned}"


def _summary(config: Config) -> dict[str, Any]:
    """Summarise a config: kind, shapes, settings, bytes and format."""
    settings = config.settings
    lines: dict[str, Any] = {"kind": config.kind}
    # An index records its model and its codes as parts.
    parts = {config.kind: settings}
    parts |= {name: settings[name] for name in ("model", "codes") if settings.get(name)}
    for kind, part in parts.items():
        shown = _SHOWN.get(kind, ())
        lines |= {name: part[name] for name in shown if part.get(name) is not None}
        recipe = part.get("made") or part.get("training") or {}
        words = [f"{k} {v}" for k, v in recipe.items() if isinstance(v, str | int | float) and v]
        if words:
            lines["training" if kind == "model" else "codes"] = ", ".join(words)
    return lines | {
        "bytes": f"{config.bytes:,} in {len(config.files)} files, checksums match",
        "format": f"{config.format_version}, written by compressae {config.library_version}",
    }

"""compressae info"""

from pathlib import Path

import click

from compressae.cli import common
from compressae.retrieval.embeddings import open_embeddings
from compressae.retrieval.storage import load_artifact, read_config


@click.command(cls=common.Command)
@click.argument("artifact", type=click.Path(path_type=Path))
@common.json_option
def info(artifact: Path, as_json: bool) -> None:
    """Say what ARTIFACT is, and check its files: a saved folder, or a table of embeddings."""
    if not (artifact / "config.json").exists():
        items = open_embeddings(artifact)
        found = {"kind": "embeddings", "rows": len(items), "dim": items.shape[1]}
        common.say({**found, "dtype": items.dtype_name, "bytes": items.nbytes}, as_json)
        return
    config = read_config(artifact)
    load_artifact(artifact, config["kind"])
    config["bytes"] = sum(file["bytes"] for file in config["files"].values())
    common.say(config, as_json)

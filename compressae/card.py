"""The model card of a trained model: what it is, how it was trained, what was measured."""

import json
from pathlib import Path
from typing import Any

import yaml

from compressae.retrieval.errors import InputError
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.io.artifacts import library_version

_TAGS = ["compressae", "sparse-autoencoder", "sparse-codes", "embeddings", "retrieval"]
#: Settings of the training that the card lists, where it has them.
_TRAINING = ("recipe", "rows", "hold_out", "steps", "batch", "similarity", "seed")


def model_card(
    projection: Projection,
    name: str,
    report: str | Path | dict[str, Any] | None = None,
    license: str | None = None,
) -> str:
    """Write a model card in Markdown, with YAML front matter for the Hugging Face Hub.

    Every figure is one that was measured: by training, which keeps those of its reference rows, or
    by ``compressae evaluate``, in a report of this very model.

    Args:
        projection: ``model.projection``.
        name: owner/name, by which the model is loaded.
        report: of ``compressae evaluate -m``: the folder, its report.json, or what that holds.
        license: identifier of the Hub, such as "mit".

    Raises:
        InputError: the report is none, or of another model.

    >>> from compressae import CompresSAE
    >>> card = model_card(CompresSAE(8, 32, 4).projection, "anna/shoes", license="mit")
    >>> print(card[4:42])
    library_name: compressae
    license: mit
    >>> "not trained" in card and "No evaluation" in card
    True
    """
    front: dict[str, Any] = {"library_name": "compressae"}
    if license is not None:
        front["license"] = license
    front["tags"] = _TAGS
    measured = None if report is None else _read_report(report, projection.model_id)
    sections = [
        "---\n" + yaml.safe_dump(front, sort_keys=False) + "---",
        f"# {name}",
        f"A CompresSAE dictionary: it rewrites embeddings of {projection.dim} dimensions as "
        f"{projection.nonzeros} signed nonzeros of {projection.latents:,} latents, to be searched "
        f"by {'dot product' if projection.similarity == 'dot' else 'cosine'}. Model id "
        f"`{projection.model_id}`, written by compressae {library_version()}.",
        "## Use",
        "```python\n"
        "from compressae import CompresSAE, compress\n"
        "from compressae.retrieval import CompressedIndex\n\n"
        f'model = CompresSAE.from_pretrained("{name}")\n'
        f"codes = compress(model, items)  # (n, {projection.dim}) embeddings\n"
        "hits = CompressedIndex(model.projection, codes).search(queries, 10)\n```",
        "## Training",
        _training(projection.training),
        "## Evaluation",
        *(_evaluation(measured) if measured is not None else [_unmeasured(name)]),
    ]
    return "\n\n".join(sections) + "\n"


def _read_report(report: str | Path | dict[str, Any], model_id: str) -> dict[str, Any]:
    """The report as JSON.

    Raises:
        InputError: it is none, or of another model.
    """
    where = "report"
    if not isinstance(report, dict):
        path = Path(report)
        path = path / "report.json" if path.is_dir() else path
        where = str(path)
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: no report ({error}); expected one of compressae evaluate"
            ) from error
    if not isinstance(report, dict) or not {"about", "metrics", "methods"} <= set(report):
        raise InputError(f"{where}: no report; expected one of compressae evaluate")
    evaluated = (report["about"].get("model") or {}).get("model_id")
    if evaluated != model_id:
        raise InputError(
            f"{where}: of model {evaluated}, but this is model {model_id}; evaluate this one: "
            "compressae evaluate -m MODEL"
        )
    return report


def _training(settings: dict[str, Any]) -> str:
    """How the model was trained, and the figures that training kept."""
    if not settings:
        return "The model was not trained."
    lines = [
        f"- {name.replace('_', ' ')}: {settings[name]}"
        for name in _TRAINING
        if settings.get(name) is not None
    ]
    reference = settings.get("reference") or {}
    figures = reference.get("figures") or {}
    for name, what in (
        ("cosine", "cosine of x and x̂"),
        ("fvu", "share of variance unexplained"),
    ):
        if name in figures:
            lines.append(f"- {what}, mean of {reference.get('source')}: {figures[name][0]:.3f}")
    return "\n".join(lines)


def _evaluation(report: dict[str, Any]) -> list[str]:
    """What was measured, and the table."""
    about, names = report["about"], report["metrics"]
    scores = "dot product" if about.get("similarity") == "dot" else "cosine"
    table = Path(str(about["table"])).name  # A path of somebody's machine is not published.
    lines = [
        "| method | bytes of code an item | " + " | ".join(names) + " |",
        "|" + "---|" * (2 + len(names)),
    ]
    for entry in report["methods"]:
        if entry.get("error") is None:
            means = [entry["metrics"][name]["mean"] for name in names]
            figures = ["–" if mean is None else f"{mean:.3f}" for mean in means]
            cells = [entry["label"].replace("|", "\\|"), f"{entry['code_bytes']:,.0f}", *figures]
            lines.append("| " + " | ".join(cells) + " |")
    return [
        f"Measured by `compressae evaluate` on {about['items']:,} items of {table} with "
        f"{about['queries']:,} queries; recall is against exact {scores}.",
        "\n".join(lines),
        *([" ".join(report["verdict"])] if report.get("verdict") else []),
    ]


def _unmeasured(name: str) -> str:
    return (
        "No evaluation came with the model. Measure it on your own table: "
        f"`compressae evaluate items.npy -m hf://{name} -o report`."
    )

"""Options of a training run."""

from typing import Any

import click

from compressae.cli.common import option_group
from compressae.retrieval.io.embeddings import SIMILARITIES

#: Options of a training run, read by ``make_config``.
training_options = option_group(
    click.option("--latents", default=4096, show_default=True, help="h, the latents."),
    click.option(
        "--nonzeros",
        type=int,
        help="k, the nonzeros of a code.  [default: 8 of recipe pursuit, else 32]",
    ),
    click.option("--steps", type=int, help="Training steps.  [default: the recipe's]"),
    click.option("--batch", type=int, help="Rows a step.  [default: the recipe's]"),
    click.option(
        "--learning-rate", type=float, help="Adam's learning rate.  [default: the recipe's]"
    ),
    click.option(
        "--recipe",
        type=click.Choice(["pursuit", "autoencoder", "paper"]),
        default="pursuit",
        show_default=True,
        help="Dictionary learning; a trained encoder; the encoder of arXiv 2505.11388.",
    ),
    click.option(
        "--similarity",
        type=click.Choice(SIMILARITIES),
        help="How queries are compared with rows; dot, the dot product, for a recommender.  "
        "[default: cosine]",
    ),
    click.option(
        "--decoder-bits",
        type=int,
        help="Bits of an entry of the trained matrix.  [default: 4 of recipe pursuit, else 32]",
    ),
    click.option(
        "--latent-dropout",
        default=0.0,
        show_default=True,
        help="Share of the latents left out of each training step. .15 codes rows that were "
        "not trained on better, where fewer than ten were for each latent.",
    ),
    click.option(
        "--whitening",
        type=float,
        help="Power of the rows' second moment that they are divided by before the dictionary is "
        "learned, 0 to .5.  [default: .4 of recipe pursuit, or 0 if a short trial says so]",
    ),
    click.option("--seed", default=0, show_default=True, help="Seed of every random choice."),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="cpu, cuda or auto, a GPU if there is one.",
    ),
)


def make_config(hold_out: int, settings: dict[str, Any]) -> Any:
    """Make the TrainConfig of the training options.

    Raises:
        click.UsageError: a setting is out of its range.
    """
    from compressae.training.config import TrainConfig

    try:
        return TrainConfig(
            latents=settings["latents"],
            nonzeros=settings["nonzeros"],
            recipe=settings["recipe"],
            steps=settings["steps"],
            batch=settings["batch"],
            learning_rate=settings["learning_rate"],
            hold_out=hold_out,
            seed=settings["seed"],
            similarity=settings["similarity"] or "cosine",
            decoder_bits=settings["decoder_bits"],
            latent_dropout=settings["latent_dropout"],
            whitening=settings["whitening"],
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error

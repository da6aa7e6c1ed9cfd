"""The options that commands share which train a recommender: those of a ``Recipe``."""

from collections.abc import Callable
from typing import Any

import click

from recommenders.training import Recipe

_OPTIONS = [
    ("loss", click.Choice(["softmax", "bpr"]), None, "Default: bpr for ncf alone."),
    ("epochs", int, Recipe.epochs, "Of a whole training."),
    ("batch", int, Recipe.batch, "Training pairs a step."),
    ("learning-rate", float, Recipe.learning_rate, "Of AdamW."),
    ("candidates", int, Recipe.candidates, "Items that a step of softmax draws."),
    ("temperature", float, Recipe.temperature, "Of softmax."),
    ("user-power", float, Recipe.user_power, "p pairs of a user weigh p^-POWER each (softmax)."),
    ("decay", float, None, f"Of AdamW; default: {Recipe.decay} with softmax, 0 with bpr."),
    ("check-every", int, Recipe.check_every, "Epochs between validations."),
    ("patience", int, Recipe.patience, "Validations without a gain before training stops."),
]


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the arguments of ``recipe_for``, but for model and seed."""
    for name, kind, default, said in reversed(_OPTIONS):
        command = click.option(f"--{name}", type=kind, default=default, help=said)(command)
    return command

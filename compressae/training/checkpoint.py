"""Checkpoints: the state of a training run as a folder."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressae.retrieval.errors import InputError
from compressae.retrieval.io.artifacts import load_artifact, save_artifact
from compressae.training.config import TrainConfig

KIND = "checkpoint"


def save_checkpoint(
    path: str | Path,
    step: int,
    config: TrainConfig,
    shape: tuple[int, int],
    tensors: dict[str, Tensor],
) -> None:
    """Write the state after ``step`` steps; it replaces an older checkpoint."""
    settings = {"step": step, "config": asdict(config), "rows": shape[0], "dim": shape[1]}
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    save_artifact(path, KIND, settings, {"state": arrays})


def load_checkpoint(
    path: str | Path, config: TrainConfig, shape: tuple[int, int]
) -> tuple[int, dict[str, Tensor]]:
    """Read a checkpoint: (steps done, tensors by name).

    Raises:
        InputError: no whole checkpoint, or one of another configuration or table.
    """
    artifact = load_artifact(path, KIND)
    expected = {**asdict(config), "rows": shape[0], "dim": shape[1]}
    # Older ones lack some settings.
    older: dict[str, Any] = {"similarity": "cosine", "decoder_bits": config.decoder_bits}
    older |= {"latent_dropout": 0.0, "whitening": 0.0}
    recorded = older | artifact.settings["config"]
    recorded |= {k: artifact.settings[k] for k in ("rows", "dim")}
    cure = "resume with the settings and table it was made with, or train without resuming"
    check_same(f"{path}: checkpoint of", recorded, expected, cure)
    state = artifact.tensors["state"]
    return artifact.settings["step"], {k: torch.from_numpy(np.array(v)) for k, v in state.items()}


def recorded_whitening(path: str | Path) -> float:
    """The power of whitening of a checkpoint's run; 0 of those from before it.

    Raises:
        InputError: no whole checkpoint, or no such power.
    """
    power = load_artifact(path, KIND, verify=False).settings["config"].get("whitening", 0.0)
    is_number = isinstance(power, int | float) and not isinstance(power, bool)
    if not is_number or not 0 <= power <= 0.5:
        raise InputError(
            f"{path}: checkpoint of whitening = {power!r}; expected 0 to 0.5; train without "
            "resuming"
        )
    return float(power)


def check_same(
    what: str, recorded: Mapping[str, Any], expected: Mapping[str, Any], cure: str
) -> None:
    """Refuse a record made with other settings than the expected ones.

    Args:
        what: start of the error message, before the first setting that differs.
        recorded: settings of the record; more than the expected ones are ignored.
        expected: settings to compare.
        cure: end of the error message.

    Raises:
        InputError: a setting differs; both values are named.
    """
    for name, value in expected.items():
        if (made := recorded.get(name)) != value:
            raise InputError(f"{what} {name} = {made}, but {value} was asked for; {cure}")


def adam_arrays(optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """Export the state of an Adam on the CPU as arrays, for ``load_adam``."""
    return {
        f"{number}.{name}": np.atleast_1d(value.numpy())
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_adam(optimizer: torch.optim.Optimizer, arrays: dict[str, np.ndarray]) -> None:
    """Restore the state that ``adam_arrays`` exported from an optimiser of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, array in arrays.items():
        number, name = key.split(".", 1)
        value = torch.from_numpy(np.array(array))
        state.setdefault(int(number), {})[name] = value.reshape(()) if name == "step" else value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

"""The folder that keeps a training run's state."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressae.config import TrainConfig
from compressae.retrieval.errors import InputError
from compressae.retrieval.storage import load_artifact, save_artifact

KIND = "checkpoint"


def save_checkpoint(
    path: str | Path,
    step: int,
    config: TrainConfig,
    shape: tuple[int, int],
    tensors: dict[str, Tensor],
) -> None:
    """Write the state after ``step`` steps, in place of an older checkpoint."""
    settings = {"step": step, "config": asdict(config), "rows": shape[0], "dim": shape[1]}
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    save_artifact(path, KIND, settings, {"state": arrays})


def load_checkpoint(
    path: str | Path, config: TrainConfig, shape: tuple[int, int]
) -> tuple[int, dict[str, Tensor]]:
    """(steps done, tensors by name).

    Raises:
        InputError: no whole checkpoint there, or one of other settings or another table.
    """
    artifact = load_artifact(path, KIND)
    wanted = {**asdict(config), "rows": shape[0], "dim": shape[1]}
    found = {**artifact.settings["config"], **{k: artifact.settings[k] for k in ("rows", "dim")}}
    cure = "resume with the settings and table it was made with, or train without resuming"
    check_same(f"{path}: checkpoint of", found, wanted, cure)
    state = artifact.tensors["state"]
    return artifact.settings["step"], {k: torch.from_numpy(np.array(v)) for k, v in state.items()}


def check_same(what: str, found: Mapping[str, Any], wanted: Mapping[str, Any], cure: str) -> None:
    """Refuse what was made with other values than those that are wanted.

    Args:
        what: the message's beginning, which the first name that differs follows.
        found: may have more names.
        cure: the message's end.

    Raises:
        InputError: it names the value that was found and the one that is wanted.
    """
    for name, value in wanted.items():
        if (made := found.get(name)) != value:
            raise InputError(f"{what} {name} = {made}, but {value} was asked for; {cure}")


def adam_arrays(optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """The state of an Adam on the CPU as arrays that an artifact can hold, for ``load_adam``."""
    return {
        f"{number}.{name}": np.atleast_1d(value.numpy())
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_adam(optimizer: torch.optim.Optimizer, arrays: dict[str, np.ndarray]) -> None:
    """Take up the state that ``adam_arrays`` gave of an optimiser of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, array in arrays.items():
        number, name = key.split(".", 1)
        value = torch.from_numpy(np.array(array))
        state.setdefault(int(number), {})[name] = value.reshape(()) if name == "step" else value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})

"""Adam by torch's fused operation, without what ``torch.optim.Adam`` imports: 3 s of compiler."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

_BETAS, _EPSILON = (0.9, 0.99), 1e-8


class Adam:
    """Adam with betas (0.9, 0.99); equal to ``torch.optim.Adam(..., fused=True)`` bit for bit.

    Args:
        parameters: float32 tensors of one device; each has a ``grad`` at every step.

    Attributes:
        state: of each parameter its "exp_avg" and "exp_avg_sq", and "step", their number of steps.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, -0.1])
    >>> optimizer = Adam([weight])
    >>> optimizer.step(learning_rate=0.5)
    >>> weight.detach()
    tensor([0.5000, 1.5000])
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.state = {
            parameter: {
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
                "step": torch.zeros((), device=parameter.device),
            }
            for parameter in parameters
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the parameters by their gradients."""
        moments, squares, steps = (
            [state[key] for state in self.state.values()]
            for key in ("exp_avg", "exp_avg_sq", "step")
        )
        adam(
            list(self.state),
            [parameter.grad for parameter in self.state if parameter.grad is not None],
            moments,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=learning_rate,
            weight_decay=0.0,
            eps=_EPSILON,
            maximize=False,
        )

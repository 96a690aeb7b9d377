"""A small normalising flow."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_NUM_LAYERS = 6
_WIDTH = 64


class RealNVP(nn.Module):
    """A density over the plane that is learnt: six affine couplings on a standard normal.

    >>> import torch
    >>> flow = RealNVP()
    >>> flow.log_prob(torch.zeros(3, 2)).shape
    torch.Size([3])

    Each coupling holds one coordinate and scales and moves the other by amounts that two small
    networks read from the first: z' = (z - t(held)) exp(-s(held)). Masks alternate, so that both
    coordinates are moved three times. The logarithm of the density is that of the standard normal
    at the final z, plus the logarithm of the Jacobian, minus the sum of all s. The scale networks
    end in tanh, so that a coupling scales by a factor between 1/e and e (Dinh et al., "Density
    estimation using Real NVP", ICLR 2017; sizes as in Li et al., ICCV 2021). At the start it is
    close to the standard normal: weights are Xavier-uniform with gain 0.01.

    `load_state_dict` also takes what the reference implementation saved: its prior's mean `loc`
    and covariance `cov`, constants there, are passed over.
    """

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([[0.0, 1.0], [1.0, 0.0]] * (_NUM_LAYERS // 2)))
        self.s = nn.ModuleList(nn.Sequential(*_layers(), nn.Tanh()) for _ in range(_NUM_LAYERS))
        self.t = nn.ModuleList(nn.Sequential(*_layers()) for _ in range(_NUM_LAYERS))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, gain=0.01)
        self.register_load_state_dict_pre_hook(_drop_prior)

    def log_prob(self, x: Tensor) -> Tensor:
        """The logarithm of the density at points of the plane.

        Args:
            x: `[..., 2]`, in the dtype of the flow's parameters.

        Returns:
            `[...]`.
        """
        z = x
        log_scale = torch.zeros_like(x)
        for mask, scale, move in reversed(list(zip(self.mask, self.s, self.t, strict=True))):
            held = mask * z
            s = scale(held) * (1 - mask)
            t = move(held) * (1 - mask)
            z = held + (1 - mask) * (z - t) * torch.exp(-s)
            log_scale = log_scale - s
        log_normal = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
        return (log_normal + log_scale).sum(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Same as `log_prob`."""
        return self.log_prob(x)


def _layers() -> list[nn.Module]:
    return [
        nn.Linear(2, _WIDTH),
        nn.LeakyReLU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.LeakyReLU(),
        nn.Linear(_WIDTH, 2),
    ]


def _drop_prior(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in ("loc", "cov"):
        state.pop(prefix + name, None)

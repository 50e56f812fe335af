"""Spectral normalisation: weights divided by their largest singular value (Miyato et al. 2018, algorithm 1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

_FIRST_ITERATIONS = 50  # brings the random start near the singular vectors; afterwards one a pass keeps up


class SpectralNorm(nn.Module):
    """A parametrisation: W -> W / sigma(W), W as a matrix with a row an output; one power iteration a training pass.

    Always in the weight's own precision: torch's, under autocast, iterates in bfloat16.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        rows = weight.flatten(1)
        self.register_buffer("left", torch.ones(rows.shape[0], dtype=weight.dtype))
        self.register_buffer("right", torch.ones(rows.shape[1], dtype=weight.dtype))

    @torch.no_grad()
    def restart(self, weight: Tensor, generator: torch.Generator | None) -> None:
        """Finds the singular vectors of a new `weight` from a random start."""
        self.left = torch.randn(len(weight), generator=generator, dtype=weight.dtype)
        self.right = weight.flatten(1).T @ self.left
        self._iterate(weight.flatten(1), _FIRST_ITERATIONS)

    @torch.no_grad()
    def _iterate(self, rows: Tensor, times: int) -> None:
        for _ in range(times):
            # new tensors, not in place: a pass before this one still needs the old for its gradient
            self.left = F.normalize(rows @ self.right, dim=0)
            self.right = F.normalize(rows.T @ self.left, dim=0)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            rows = weight.flatten(1)
            if self.training:
                self._iterate(rows, 1)
            return weight / torch.dot(self.left, rows @ self.right)


def keep_up(network: nn.Module) -> None:
    """One power iteration of every spectral norm in a network, as a training pass does."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            held = getattr(module.parametrizations, "weight")  # noqa: B009 - as in `draw_weight`
            held[0]._iterate(held.original.flatten(1), 1)


def add_spectral_norm(module: nn.Conv2d | nn.Linear) -> None:
    """Makes `module.weight` spectrally normalised."""
    # unsafe skips a trial pass, which says nothing before the weights are drawn
    parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight), unsafe=True)


def draw_weight(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, std: float, generator: torch.Generator) -> None:
    """Draws the weight from N(0, std), before its normalisation if it has one."""
    if not parametrize.is_parametrized(module, "weight"):
        nn.init.normal_(module.weight, 0.0, std, generator=generator)
        return
    held = getattr(module.parametrizations, "weight")  # noqa: B009 - mypy knows no attributes of a parametrised module
    nn.init.normal_(held.original, 0.0, std, generator=generator)
    held[0].restart(held.original.detach(), generator)


def without_spectral_norm(module: nn.Module) -> None:
    """Freezes `module.weight` at its normalised value, a plain parameter again."""
    if parametrize.is_parametrized(module, "weight"):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)

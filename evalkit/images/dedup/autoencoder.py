"""The paper's hash: a denoising, dropout-regularised ReLU autoencoder whose thresholded code is the key.

Radford et al. 2016, sec. 4.3: 3072-128-3072 on 32x32 centre crops; the code's ReLU activations are thresholded.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from evalkit.errors import EvalkitError
from evalkit.images.dedup.codes import Pictures, coded

HIDDEN = 128  # Radford et al. 2016, sec. 4.3


@dataclass(frozen=True)
class AutoencoderOptions:
    """How to train the hash. The paper gives the network and no value below; these are ours."""

    pictures: int = 1_000_000  # shown in training; repeats small sets, covers a part of large ones
    batch_size: int = 256
    learning_rate: float = 1e-3
    noise: float = 0.3  # standard deviation, of pixels in [-1, 1]: robust to encoding, blind to nothing that matters
    dropout: float = 0.5  # of the code

    def __post_init__(self) -> None:
        if self.pictures < self.batch_size or self.batch_size < 2 or not 0 <= self.dropout < 1 or self.noise < 0:
            raise EvalkitError(f"autoencoder: {self} makes no sense; give at least one batch, dropout below 1")


class Autoencoder(nn.Module):
    """Pictures (N, P) in [-1, 1] -> code before its ReLU (N, 128), and back."""

    def __init__(self, pixels: int, dropout: float):
        super().__init__()
        self.encode = nn.Linear(pixels, HIDDEN)
        self.decode = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(HIDDEN, pixels))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """The pictures drawn from their codes."""
        return self.decode(self.encode(pictures))


def train_autoencoder(
    images: Pictures, options: AutoencoderOptions, *, seed: int, device: torch.device
) -> tuple[Autoencoder, float]:
    """Fits the autoencoder to `images`, uint8 (N, H, W, 3); returns it with the squared error of its last 100 steps."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):  # dropout knows no generator
        torch.manual_seed(seed)
        return _trained(images, options, np.random.default_rng(seed), device)


def _trained(
    images: Pictures, options: AutoencoderOptions, generator: np.random.Generator, device: torch.device
) -> tuple[Autoencoder, float]:
    model = Autoencoder(int(np.prod(images.shape[1:])), options.dropout).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    errors: deque[torch.Tensor] = deque(maxlen=100)
    for _ in range(options.pictures // options.batch_size):
        # Sorted rows are read faster; which rows they are is random all the same.
        rows = np.sort(generator.integers(0, len(images), options.batch_size))
        clean = _flat(np.asarray(images[rows]), device)
        loss = (model(clean + options.noise * torch.randn_like(clean)) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.detach())
    return model.eval(), float(torch.stack(tuple(errors)).mean())


def _flat(part: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(part.reshape(len(part), -1)).to(device).float().div_(127.5).sub_(1)


@torch.no_grad()
def autoencoder_codes(model: Autoencoder, images: Pictures, device: torch.device) -> np.ndarray:
    """Packed bits, uint8 (N, 1, 16): which units of the code are active."""

    def code(part: np.ndarray) -> np.ndarray:
        active = model.encode(_flat(np.array(part), device)) > 0
        return np.packbits(active.cpu().numpy(), axis=1)[:, None]

    return coded(images, code)

"""Minibatches: real images, classes, z and noise, in the order that the seed sets; the input of both networks.

All images are kept on the GPU where they fit; otherwise the next minibatch is read while this one is computed.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from evalkit.errors import EvalkitError
from evalkit.gan.networks import draw_z, to_network_range
from evalkit.gan.recipes import Recipe
from evalkit.images.imageset import ImageSet
from evalkit.runtime import ALONE, Ranks

GENERATOR, DISCRIMINATOR = 0, 1
_GPU_SHARE = 0.5  # of a GPU's free memory that images may take; the networks need a few GB


class Minibatches:
    """The training images in random order: minibatch t is a function of (seed, rewinds, t).

    An incomplete minibatch at the end of an epoch is dropped. With several ranks each gets its share of the minibatch.

    Attributes:
        rewinds: how often the run was rewound; each time order and z change.
        batches_per_epoch: minibatches per epoch.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, *, seed: int, device: torch.device, ranks: Ranks = ALONE):
        self.images = images.training
        first, end = images.splits.get("train", (0, len(images)))
        self.labels = images.labels[first:end]
        self.recipe, self.seed, self.device = recipe, seed, device
        _check_fits(images, self.images, self.labels, recipe)
        self.rewinds = 0
        self.batches_per_epoch = len(self.images) // recipe.batch_size
        self._share = _share(recipe.batch_size, ranks)
        self._order: tuple[tuple[int, int], np.ndarray] = ((-1, -1), np.empty(0, np.int64))
        self._on_device = _on_gpu(self.images, device)
        self._reader = ThreadPoolExecutor(1, "images")
        self._next: tuple[tuple[int, int], Future[Tensor]] | None = None

    def rows(self, t: int) -> np.ndarray:
        """Row numbers of minibatch t, int64 (batch_size,); each epoch is a new permutation."""
        epoch, place = divmod(t, self.batches_per_epoch)
        if self._order[0] != (epoch, self.rewinds):
            random = np.random.default_rng([self.seed, epoch, self.rewinds] if self.rewinds else [self.seed, epoch])
            self._order = (epoch, self.rewinds), random.permutation(len(self.images))
        first = place * self.recipe.batch_size
        return self._order[1][first : first + self.recipe.batch_size]

    def real(self, t: int) -> Tensor:
        """This rank's images of minibatch t, float32 (b, C, H, W) in the generator's range, channels last."""
        rows = torch.from_numpy(self.rows(t)[self._share])
        if self._on_device is not None:
            images = self._on_device[rows.to(self.device, non_blocking=True)]
        else:
            images = self._read(t).to(self.device, non_blocking=True)
        real = to_network_range(self._crop(t, images) if self.recipe.random_crop else images, self.recipe)
        return torch.where(self._flipped(t), real.flip(3), real) if self.recipe.random_flip else real

    def _read(self, t: int) -> Tensor:
        """The images of minibatch t from memory or disk; starts reading those that D will need next."""
        prefetched, self._next = self._next, None
        if prefetched and prefetched[0] == (t, self.rewinds):
            images = prefetched[1].result()
        else:
            images = self._gather(self.rows(t))
        after = t + (2 if self.recipe.schedule == "alternate" else 1)
        if after // self.batches_per_epoch == t // self.batches_per_epoch:  # the next epoch's order is not known yet
            self._next = (after, self.rewinds), self._reader.submit(self._gather, self.rows(after))
        return images

    def _gather(self, rows: np.ndarray) -> Tensor:
        images = torch.from_numpy(self.images[rows[self._share]])
        return images.pin_memory() if self.device.type == "cuda" else images

    def _crop(self, t: int, images: Tensor) -> Tensor:
        """A random square of each of this rank's images of minibatch t, uint8 (b, size, size, C)."""
        random = np.random.default_rng([self.seed, t, self.rewinds, 3])
        size, (height, width) = self.recipe.size, images.shape[1:3]
        highest = [height - size + 1, width - size + 1]
        corners = random.integers(0, highest, (self.recipe.batch_size, 2))[self._share]
        places = torch.from_numpy(corners[:, :, None] + np.arange(size)).to(self.device, non_blocking=True)
        numbers = torch.arange(len(images), device=self.device)
        return images[numbers[:, None, None], places[:, 0, :, None], places[:, 1, None, :]]

    def _flipped(self, t: int) -> Tensor:
        """Which images of minibatch t are flipped horizontally: bool (b, 1, 1, 1)."""
        random = np.random.default_rng([self.seed, t, self.rewinds, 1])
        chosen = torch.from_numpy(random.random(self.recipe.batch_size)[self._share] < 0.5)
        return chosen.to(self.device, non_blocking=True)[:, None, None, None]

    def classes(self, t: int) -> Tensor | None:
        """One-hot labels of minibatch t, float32 (b, K); None where the recipe has no classes."""
        if not self.recipe.classes:
            return None
        labels = torch.from_numpy(self.labels[self.rows(t)[self._share]]).to(self.device, non_blocking=True)
        return torch.nn.functional.one_hot(labels, self.recipe.classes).float()

    def z(self, t: int, network: int) -> Tensor:
        """The noise of minibatch t for one of the networks, float32 (b, Z)."""
        stream = (
            np.random.SeedSequence([self.seed, self.rewinds]).generate_state(1)[0] if self.seed + self.rewinds else 0
        )
        number = (int(stream) + 2 * t + network) % 2**32  # torch's generator on CPUs ignores higher bits
        random = torch.Generator(self.device).manual_seed(number)
        return draw_z(self.recipe.batch_size, self.recipe, random)[self._share]

    def noise(self, t: int, inputs: int) -> Tensor | None:
        """Normal noise for `inputs` batches that D sees in minibatch t, float32 (inputs, b, C, H, W), channels last.

        None where the recipe has no noise.
        """
        if not self.recipe.input_noise_std:
            return None
        number = int(np.random.SeedSequence([self.seed, t, self.rewinds, 2]).generate_state(1)[0])
        random = torch.Generator(self.device).manual_seed(number)
        shape = (inputs, self.recipe.batch_size, self.recipe.size, self.recipe.size, self.recipe.channels)
        noise = torch.randn(shape, generator=random, device=self.device) * self.recipe.input_noise_std
        return noise[:, self._share].permute(0, 1, 4, 2, 3)


def _share(batch_size: int, ranks: Ranks) -> slice:
    """The part of a minibatch that this rank takes."""
    if batch_size % ranks.count or batch_size < 2 * ranks.count:
        raise EvalkitError(
            f"batch_size = {batch_size} on {ranks.count} processes, expected a multiple with at least 2 images each; "
            "start fewer processes or give --set batch_size=N"
        )
    each = batch_size // ranks.count
    return slice(ranks.number * each, (ranks.number + 1) * each)


def _on_gpu(images: np.ndarray, device: torch.device) -> Tensor | None:
    """All images as one uint8 tensor on a GPU that has room for them; otherwise None."""
    size = int(np.prod(images.shape))
    if device.type != "cuda" or size > _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        return None
    on_gpu = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for first in range(0, len(images), 65_536):  # in parts: the image set may be larger than the memory
        part = np.asarray(images[first : first + 65_536])
        on_gpu[first : first + len(part)] = torch.from_numpy(np.ascontiguousarray(part)).to(device)
    return on_gpu


def _check_fits(images: ImageSet, training: np.ndarray, labels: np.ndarray, recipe: Recipe) -> None:
    height, width = training.shape[1:3]
    if min(height, width) < recipe.size or (not recipe.random_crop and max(height, width) > recipe.size):
        larger = " or larger" if recipe.random_crop else ""
        raise EvalkitError(
            f"{images.name}: images of {height}x{width}, recipe {recipe.name} takes {recipe.size}x{recipe.size}"
            f"{larger}; prepare them with --size {recipe.size}"
        )
    if len(training) < recipe.batch_size:
        raise EvalkitError(f"{images.name}: {len(training)} images, fewer than one minibatch of {recipe.batch_size}")
    if recipe.classes and not (0 <= labels.min() and labels.max() < recipe.classes):
        present = f"labels {labels.min()} to {labels.max()}"
        raise EvalkitError(f"{images.name}: {present}, recipe {recipe.name} takes 0 to {recipe.classes - 1}")

"""The supervised CNN of the tables: the discriminator's conv layers trained from random weights on the labels drawn.

Trials of a random search are the values that validation chooses from. Every fit's predictions are kept in a folder, so
that a search goes on where it was.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.artifacts import sha256_json, write_atomically
from evalkit.errors import EvalkitError
from evalkit.gan.networks import Discriminator, build_networks, to_network_range
from evalkit.gan.recipes import Recipe
from evalkit.probes.classifiers import Classifier, Predictions, SolverOptions
from evalkit.runtime import arithmetic, resolve_precision

_BATCH = 512  # images predicted at a time; no effect on predictions


@dataclass(frozen=True)
class Trial:
    """One draw of the search. The paper gives no ranges [?]; these are ours."""

    lr: float
    beta1: float
    l2: float
    batch_size: int
    dropout: float  # of the last layer's input


def draw_trial(number: int, *, seed: int) -> Trial:
    """The trial of that number, a function of the seed."""
    random = np.random.default_rng([seed, number])
    return Trial(
        lr=float(10 ** random.uniform(-4, -2)),
        beta1=float(random.choice([0.5, 0.9])),
        l2=float(10 ** random.uniform(-6, -2)),
        batch_size=int(random.choice([32, 64, 128])),
        dropout=float(random.choice([0.0, 0.25, 0.5])),
    )


class SupervisedCNN(nn.Module):
    """The recipe's discriminator with one output a class: uint8 images (N, H, W, 3) -> logits (N, classes)."""

    def __init__(self, recipe: Recipe, classes: int, *, dropout: float, seed: int):
        super().__init__()
        self.recipe, self.dropout, self.seed = recipe, dropout, seed
        self.random: torch.Generator | None = None  # of dropout, made where the network is
        discriminator: Discriminator = build_networks(recipe, seed=seed)[1]
        self.blocks = discriminator.blocks
        self.out = nn.Linear(discriminator.out.in_features, classes)
        nn.init.normal_(self.out.weight, 0, recipe.init_std, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.out.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = to_network_range(images, self.recipe)
        for block in self.blocks:
            x = block(x)
        return self.out(self._dropped(x.flatten(1)) if self.training else x.flatten(1))

    def _dropped(self, x: Tensor) -> Tensor:
        if self.random is None:
            self.random = torch.Generator(x.device).manual_seed(self.seed)
        kept = torch.rand(x.shape, device=x.device, generator=self.random) >= self.dropout
        return x * kept / (1 - self.dropout)


@dataclass(frozen=True)
class Search:
    """Fits and predicts, as `Classifier.predict` does; the features are images, uint8 (N, H x W x 3).

    Attributes:
        recipe: whose discriminator it is.
        folder: where predictions of finished fits are kept.
        updates: of each fit.
        minutes: fits are not begun after so long.
        seed: of the trials, the weights and the order of images.
    """

    recipe: Recipe
    folder: Path
    updates: int = 2000
    minutes: float = float("inf")
    seed: int = 0
    _started: float = field(default_factory=time.monotonic)

    def __call__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        draws: Sequence[np.ndarray],
        values: Sequence[float],
        evaluate_rows: np.ndarray,
        options: SolverOptions,
    ) -> Predictions:
        """Trains a network a draw and trial.

        Raises:
            EvalkitError: the time is over; finished fits are kept.
        """
        found = np.empty((len(draws), len(values), len(evaluate_rows)), np.int64)
        for number, rows in enumerate(draws):
            for index, trial in enumerate(values):
                if options.progress:
                    options.progress(f"draw {number + 1} of {len(draws)}, trial {trial:g}")
                found[number, index] = self._kept(features, labels, rows, int(trial), evaluate_rows, options.device)
        return Predictions(found)

    def _kept(
        self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, trial: int, judged: np.ndarray, device: str
    ) -> np.ndarray:
        """The predictions of one fit: of an earlier run, or of now."""
        parts = [self.recipe.as_dict(), self.updates, self.seed, trial, rows.tolist(), judged.tolist()]
        path = self.folder / f"{sha256_json([*parts, labels[rows].tolist()])[:24]}.txt"
        if path.exists():
            return np.array(path.read_text().split(), np.int64)
        if time.monotonic() - self._started > 60 * self.minutes:
            done = len(list(self.folder.glob("*.txt")))
            raise EvalkitError(
                f"{self.folder}: {self.minutes:g} minutes are over, {done} fits are kept; run the same command again "
                "to go on, or take the best of fewer trials with --trials"
            )
        network = self._trained(images, labels, rows, trial, torch.device(device))
        found = self._predicted(network, images, judged, torch.device(device))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, " ".join(map(str, found.tolist())) + "\n")
        return found

    def _trained(
        self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, number: int, device: torch.device
    ) -> SupervisedCNN:
        trial = draw_trial(number, seed=self.seed)
        network = SupervisedCNN(self.recipe, int(labels.max()) + 1, dropout=trial.dropout, seed=self.seed).to(device)
        network.to(memory_format=torch.channels_last)
        optimiser = torch.optim.Adam(
            network.parameters(), trial.lr, betas=(trial.beta1, self.recipe.beta2), weight_decay=trial.l2
        )
        random, precision = np.random.default_rng([self.seed, number]), resolve_precision("auto", device)
        for _ in range(self.updates):
            batch = random.choice(rows, min(trial.batch_size, len(rows)), replace=False)
            with arithmetic(precision, device):
                logits = network(self._images(images, batch, device))
            loss = F.cross_entropy(logits.float(), torch.as_tensor(labels[batch], device=device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return network.eval()

    def _predicted(
        self, network: SupervisedCNN, images: np.ndarray, rows: np.ndarray, device: torch.device
    ) -> np.ndarray:
        with torch.inference_mode():
            parts = [rows[first : first + _BATCH] for first in range(0, len(rows), _BATCH)]
            return np.concatenate([network(self._images(images, part, device)).argmax(1).cpu() for part in parts])

    def _images(self, images: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
        size = self.recipe.size
        return torch.from_numpy(np.asarray(images[rows])).view(len(rows), size, size, -1).to(device)


def supervised_cnn(search: Search, *, trials: int) -> Classifier:
    """The classifier whose trial is chosen on validation, named as tables name it."""
    label = f"supervised CNN (best of {trials} trials)"
    return Classifier(label, "trial", tuple(range(1, trials + 1)), search, extend_search=False)

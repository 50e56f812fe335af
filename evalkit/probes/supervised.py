"""The supervised CNN of the tables: the discriminator's layers, trained from random weights on the labels.

A classifier for `evaluate` whose hyperparameter is the trial of a random search. The predictions of every fit are kept
in a folder, so that an interrupted search resumes.
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
    """Hyperparameters of one trial of the search. The paper gives no ranges [?]; these are ours."""

    lr: float
    beta1: float
    l2: float
    batch_size: int
    dropout: float  # of the last layer's input


def sample_trial(number: int, *, seed: int) -> Trial:
    """Trial `number` of the search, a function of the seed."""
    random = np.random.default_rng([seed, number])
    return Trial(
        lr=float(10 ** random.uniform(-4, -2)),
        beta1=float(random.choice([0.5, 0.9])),
        l2=float(10 ** random.uniform(-6, -2)),
        batch_size=int(random.choice([32, 64, 128])),
        dropout=float(random.choice([0.0, 0.25, 0.5])),
    )


class SupervisedCNN(nn.Module):
    """The recipe's discriminator with one output per class: uint8 images (N, H, W, 3) -> logits (N, classes)."""

    def __init__(self, recipe: Recipe, classes: int, *, dropout: float, seed: int):
        super().__init__()
        self.recipe, self.dropout, self.seed = recipe, dropout, seed
        self.random: torch.Generator | None = None  # for dropout, made on the network's device
        discriminator: Discriminator = build_networks(recipe, seed=seed)[1]
        self.blocks = discriminator.blocks
        self.out = nn.Linear(discriminator.out.in_features, classes)
        nn.init.normal_(self.out.weight, 0, recipe.init_std, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.out.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = to_network_range(images, self.recipe)
        for block in self.blocks:
            x = block(x)
        return self.out(self._dropout(x.flatten(1)) if self.training else x.flatten(1))

    def _dropout(self, x: Tensor) -> Tensor:
        if self.random is None:
            self.random = torch.Generator(x.device).manual_seed(self.seed)
        kept = torch.rand(x.shape, device=x.device, generator=self.random) >= self.dropout
        return x * kept / (1 - self.dropout)


@dataclass(frozen=True)
class Search:
    """Fits and predicts, as `Classifier.predict` does; the features are images, uint8 (N, H x W x 3).

    Attributes:
        recipe: recipe whose discriminator is trained.
        folder: where the predictions of finished fits are kept.
        updates: updates of each fit.
        minutes: no fit starts after this many minutes.
        seed: seed of the trials, the weights and the order of images.
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
        subsets: Sequence[np.ndarray],
        values: Sequence[float],
        evaluate_rows: np.ndarray,
        options: SolverOptions,
    ) -> Predictions:
        """Trains a network per label subset and trial.

        Raises:
            EvalkitError: the time is over; finished fits are kept.
        """
        predictions = np.empty((len(subsets), len(values), len(evaluate_rows)), np.int64)
        for number, rows in enumerate(subsets):
            for index, trial in enumerate(values):
                if options.progress:
                    options.progress(f"label subset {number + 1} of {len(subsets)}, trial {trial:g}")
                fit = self._fit_or_read(features, labels, rows, int(trial), evaluate_rows, options.device)
                predictions[number, index] = fit
        return Predictions(predictions)

    def _fit_or_read(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray,
        trial: int,
        evaluate_rows: np.ndarray,
        device: str,
    ) -> np.ndarray:
        """The predictions of one fit, read if an earlier run kept them."""
        parts = [self.recipe.as_dict(), self.updates, self.seed, trial, rows.tolist(), evaluate_rows.tolist()]
        path = self.folder / f"{sha256_json([*parts, labels[rows].tolist()])[:24]}.txt"
        if path.exists():
            return np.array(path.read_text().split(), np.int64)
        if time.monotonic() - self._started > 60 * self.minutes:
            done = len(list(self.folder.glob("*.txt")))
            raise EvalkitError(
                f"{self.folder}: {self.minutes:g} minutes are over, {done} fits are kept; run the same command again "
                "to resume, or take the best of fewer trials with --trials"
            )
        network = self._train(images, labels, rows, trial, torch.device(device))
        predictions = self._predict(network, images, evaluate_rows, torch.device(device))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, " ".join(map(str, predictions.tolist())) + "\n")
        return predictions

    def _train(
        self, images: np.ndarray, labels: np.ndarray, rows: np.ndarray, number: int, device: torch.device
    ) -> SupervisedCNN:
        trial = sample_trial(number, seed=self.seed)
        network = SupervisedCNN(self.recipe, int(labels.max()) + 1, dropout=trial.dropout, seed=self.seed).to(device)
        network.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(
            network.parameters(), trial.lr, betas=(trial.beta1, self.recipe.beta2), weight_decay=trial.l2
        )
        random, precision = np.random.default_rng([self.seed, number]), resolve_precision("auto", device)
        for _ in range(self.updates):
            batch = random.choice(rows, min(trial.batch_size, len(rows)), replace=False)
            with arithmetic(precision, device):
                logits = network(self._images(images, batch, device))
            loss = F.cross_entropy(logits.float(), torch.as_tensor(labels[batch], device=device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return network.eval()

    def _predict(
        self, network: SupervisedCNN, images: np.ndarray, rows: np.ndarray, device: torch.device
    ) -> np.ndarray:
        with torch.inference_mode():
            parts = [rows[first : first + _BATCH] for first in range(0, len(rows), _BATCH)]
            return np.concatenate([network(self._images(images, part, device)).argmax(1).cpu() for part in parts])

    def _images(self, images: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
        size = self.recipe.size
        return torch.from_numpy(np.asarray(images[rows])).view(len(rows), size, size, -1).to(device)


def supervised_cnn(search: Search, *, trials: int) -> Classifier:
    """The classifier whose trial is selected on validation, with its name in tables."""
    name = f"supervised CNN (best of {trials} trials)"
    numbers = tuple(range(1, trials + 1))
    return Classifier(name, "trial", numbers, search, extend_search=False, bounds=(1, trials))

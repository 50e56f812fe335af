"""FeatureSet: one row of numbers an image, memory-mapped, with labels, splits and where each layer lies.

Columns of a feature set by layer: what the ablation fits on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evalkit.artifacts import Manifest, read_manifest
from evalkit.encoders.encoder import check_weights
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.pooling import Layer

KIND = "feature set"


@dataclass(frozen=True)
class FeatureSet:
    """Features of all images of an image set.

    Attributes:
        features: float16 or float32 (N, D), memory-mapped.
        labels: int64 (N,).
        class_names: the K names.
        splits: name -> (first row, row after the last).
        layers: the layers' columns, in order.
        manifest: encoder, batch-norm mode, hashes.
    """

    features: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    splits: dict[str, tuple[int, int]]
    layers: list[Layer]
    manifest: Manifest

    @property
    def dataset(self) -> str:
        """Name of the image set."""
        return self.manifest["settings"]["dataset"]

    @property
    def encoder(self) -> str:
        """Name of the encoder, with the batch-norm mode and taps where they are not its own or the paper's."""
        name, differs = self.manifest["settings"]["encoder"], self.manifest.get("variant", [])
        return f"{name} ({', '.join(differs)})" if differs else name

    @property
    def sha256(self) -> str:
        """SHA-256 of `features.npy`."""
        return self.manifest["files"]["features.npy"]["sha256"]

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the encoder's weights; empty for pixels."""
        return self.manifest["made_from"]["weights_sha256"]

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, int64.

        Raises:
            ArtifactError: no such split; the message lists those there are.
        """
        if split not in self.splits:
            raise ArtifactError(f"{self.dataset}: no split {split!r}; it has {', '.join(self.splits)}")
        return np.arange(*self.splits[split])

    def chunks(self, split: str | None = None, *, rows: int = 1024) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(features float32 (n, D), labels (n,)) of a split, or of all rows, at most `rows` at a time, in order."""
        chosen = np.arange(len(self.labels)) if split is None else self.rows(split)
        first, end = (int(chosen[0]), int(chosen[-1]) + 1) if len(chosen) else (0, 0)
        for start in range(first, end, rows):
            chunk = slice(start, min(start + rows, end))
            yield self.features[chunk].astype(np.float32), self.labels[chunk]


def load_features(directory: Path) -> FeatureSet:
    """Opens a feature set, memory-mapped.

    Raises:
        ArtifactError: nothing there, cut short, or not a feature set.
        EvalkitError: its weights file is there and has changed since.
    """
    manifest = read_manifest(directory, KIND)
    check_weights(manifest["settings"]["weights"], manifest["made_from"]["weights_sha256"])
    return FeatureSet(
        features=np.load(directory / "features.npy", mmap_mode="r"),
        labels=np.load(directory / "labels.npy"),
        class_names=manifest["class_names"],
        splits={name: (first, end) for name, (first, end) in manifest["splits"].items()},
        layers=[Layer(**layer) for layer in manifest["layers"]],
        manifest=manifest,
    )


def layer_columns(features: FeatureSet, layers: str) -> np.ndarray:
    """The columns of one layer ("conv3") or of consecutive ones ("conv1..conv4"), as a view (N, columns); "" is all.

    Raises:
        EvalkitError: no such layer; the message lists those there are.
    """
    if not layers:
        return features.features
    places = {layer.name: layer for layer in features.layers}
    first, dots, last = layers.partition("..")
    chosen = [places.get(first), places.get(last if dots else first)]
    if None in chosen or chosen[0].offset > chosen[1].offset:  # type: ignore[union-attr]
        raise EvalkitError(f"{layers}: no layers of {features.encoder}; choose {', '.join(places)}, or FIRST..LAST")
    begin, end = chosen
    assert begin and end
    return features.features[:, begin.offset : end.offset + end.length]

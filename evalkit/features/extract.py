"""extract: from an image set and an encoder to a feature set; bounded memory, resumable."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from evalkit.arrays import Building, RowWriter, building
from evalkit.artifacts import new_manifest
from evalkit.device import describe_device, resolve_device, resolve_precision
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.batchnorm import BatchNormMode, load_statistics, set_statistics, statistics
from evalkit.features.encoders.encoder import Encoder
from evalkit.features.featureset import KIND, FeatureSet, load_features
from evalkit.features.grids import Layer, concatenate, lay_out
from evalkit.images.imageset import ImageSet

DTYPES = ("float16", "float32")
_BATCH = 256  # pictures a pass; no effect on the features
_CHUNK = 8  # batches between records of progress


def extract(
    images: ImageSet,
    encoder: Encoder,
    target: Path,
    *,
    batch_norm: BatchNormMode = "target",
    source_images: ImageSet | None = None,
    grid: int = 4,
    dtype: str = "float16",
    device: str = "auto",
    precision: str = "auto",
) -> FeatureSet:
    """Features of every picture of `images`, written to `target`; an interrupted extraction goes on where it was.

    Args:
        images: pictures of the encoder's size.
        encoder: from `find_encoder`.
        target: the feature set's directory. One with equal settings and inputs is returned as it is.
        batch_norm: whose statistics normalise: `target`, `source` (needs `source_images`), `running`.
        source_images: the pictures that the encoder was trained on.
        grid: maps are max-pooled to grid x grid (4 in the paper).
        dtype: float16 or float32 on disk.

    Raises:
        EvalkitError: pictures of another size, or features that are not finite numbers.
    """
    where = resolve_device(device)
    settings = {
        "dataset": images.name,
        "encoder": encoder.name,
        "weights": encoder.weights,
        "batch_norm": batch_norm if encoder.network.norms() else "",
        "grid": grid,
        "dtype": dtype,
        "precision": resolve_precision(precision, where),
    }
    made_from = {"weights_sha256": encoder.sha256, "images_sha256": images.sha256}
    if encoder.network.norms() and batch_norm == "source":
        made_from["statistics_sha256"] = _checked_source(encoder, source_images).sha256
    with building(target, settings=settings, made_from=made_from) as artifact:
        if not artifact.progress and (done := _already_there(target, settings, made_from)):
            return done
        network = _network(images, encoder, artifact, settings, source_images, where)
        layers = _write_rows(images, encoder, network, artifact, grid, dtype, where)
        np.save(artifact.path / "labels.npy", images.labels)
        manifest = new_manifest(KIND, settings=settings, made_from=made_from)
        about: dict[str, Any] = {"device": describe_device(where), "layers": [layer.as_dict() for layer in layers]}
        about["preprocessing"] = encoder.preprocessing.as_dict()
        splits = {name: list(rows) for name, rows in images.splits.items()}
        artifact.finish(manifest | about | {"class_names": list(images.class_names), "splits": splits})
    return load_features(target)


def _already_there(target: Path, settings: dict, made_from: dict) -> FeatureSet | None:
    try:
        found = load_features(target)
    except EvalkitError:  # missing, broken or stale: make it
        return None
    same = found.manifest["settings"] == settings and found.manifest["made_from"] == made_from
    return found if same else None


def _checked_source(encoder: Encoder, source_images: ImageSet | None) -> ImageSet:
    if source_images is None or source_images.sha256 != encoder.images_sha256:
        found = source_images.name if source_images else "none given"
        raise EvalkitError(f"{encoder.name}: batch norm `source` needs the pictures it was trained on, found {found}")
    return source_images


def _network(
    images: ImageSet,
    encoder: Encoder,
    artifact: Building,
    settings: dict,
    source_images: ImageSet | None,
    device: torch.device,
) -> nn.Module:
    """The encoder ready to run: statistics computed (or read back from the interrupted extraction) and folded in."""
    height, width = images.images.shape[1:3]
    encoder.preprocessing.check(height, width, encoder.name)
    network = encoder.network.to(device).to(memory_format=torch.channels_last)
    if network.norms():
        kept = artifact.path / "statistics.safetensors"
        if artifact.progress:
            load_statistics(network, load_file(kept, device=str(device)))
        elif settings["batch_norm"] != "running":
            pictures = _training_pictures(source_images if settings["batch_norm"] == "source" else images)
            options = {"precision": settings["precision"], "device": device}
            set_statistics(network, pictures, preprocessing=encoder.preprocessing, **options)
        save_file({name: value.cpu() for name, value in statistics(network).items()}, kept)
    return network.eval().lowered(network.default, precision=settings["precision"]).to(device)


def _training_pictures(images: ImageSet | None) -> np.ndarray:
    assert images is not None
    return images.split("train") if "train" in images.splits else images.images


def _write_rows(
    images: ImageSet,
    encoder: Encoder,
    network: nn.Module,
    artifact: Building,
    grid: int,
    dtype: str,
    device: torch.device,
) -> list[Layer]:
    """Appends the features of all pictures; progress is recorded every few batches."""
    rows = artifact.progress.get("rows", 0)
    with torch.inference_mode():
        names = encoder.network.default
        taps = network(encoder.preprocessing(torch.from_numpy(np.array(images.images[:1])).to(device)), names)
        layers = lay_out({name: tap.shape[1:] for name, tap in taps.items()}, grid)
        bar = tqdm(total=len(images), initial=rows, unit="picture", desc="features", disable=None)
        length = sum(layer.length for layer in layers)
        with bar, RowWriter(artifact.path / "features.npy", (length,), dtype, rows=rows) as writer:
            artifact.save(rows=rows)
            for number, first in enumerate(range(rows, len(images), _BATCH), start=1):
                batch = torch.from_numpy(np.array(images.images[first : first + _BATCH])).to(device)
                features = concatenate(network(encoder.preprocessing(batch), names), layers, grid=grid)
                writer.append(_finite(features.numpy().astype(dtype, copy=False), first, images.name))
                bar.update(len(features))
                if number % _CHUNK == 0:
                    writer.sync()
                    artifact.save(rows=writer.rows)
    return layers


def _finite(features: np.ndarray, first: int, name: str) -> np.ndarray:
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        row = first + int(bad.argmax())
        column = int((~np.isfinite(features[bad.argmax()])).argmax())
        raise ArtifactError(
            f"{name}: feature {column} of picture {row} is {features[row - first, column]} as {features.dtype}; "
            "the weights may have diverged, or float16 overflowed (--dtype float32)"
        )
    return features

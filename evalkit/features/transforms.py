"""Feature sets made from others: standardised, or whitened by PCA, by statistics of the training rows.

concat: the columns of several encoders side by side, for the same images in the same order.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from evalkit.artifacts import ArtifactWriter, NpyWriter, new_manifest, sha256_json, write_artifact
from evalkit.errors import EvalkitError
from evalkit.features.featureset import KIND, FeatureSet, Layer, load_features
from evalkit.features.writer import Content, write_features

SCALINGS = {"standardise": "standardised", "whiten": "PCA-whitened"}  # what a user asks for: what figures say
_VARIANCE = 0.99  # share that the principal components keep: beyond it whitening blows up noise
_CHUNK = 2048  # rows at a time
_WIDEST = 8192  # columns that PCA takes: its covariance is columns x columns
Transform = Callable[[np.ndarray], np.ndarray]


def scale(features: FeatureSet, target: Path, scaling: str) -> FeatureSet:
    """The features with each column standardised, or projected on principal components of variance 1; at `target`.

    A feature set that is there, made from the same features, is returned as it is; a killed one goes on.

    Raises:
        EvalkitError: more columns than PCA takes.
    """
    settings = features.manifest["settings"] | {"scaling": SCALINGS[scaling]}
    made_from = features.manifest["made_from"] | {"features_sha256": features.sha256}
    with write_artifact(target, settings=settings, made_from=made_from) as artifact:
        if not artifact.progress and (done := _already_there(target, settings, made_from)):
            return done
        transform, layers = _standardiser(features) if scaling == "standardise" else _whitener(features)
        _write_rows(features, transform, artifact)
        np.save(artifact.path / "labels.npy", features.labels)
        splits = {name: list(rows) for name, rows in features.splits.items()}
        about = {"layers": [layer.as_dict() for layer in layers], "splits": splits}
        manifest = new_manifest(KIND, settings=settings, made_from=made_from)
        artifact.finish(features.manifest | manifest | about)
    return load_features(target)


def _already_there(target: Path, settings: dict, made_from: dict) -> FeatureSet | None:
    try:
        found = load_features(target)
    except EvalkitError:  # missing, broken or stale: make it
        return None
    same = found.manifest["settings"] == settings and found.manifest["made_from"] == made_from
    return found if same else None


def _standardiser(features: FeatureSet) -> tuple[Transform, list[Layer]]:
    """Mean 0 and variance 1 of every column; constant columns become 0."""
    scaler, rows = StandardScaler(), features.rows("train")
    for first in range(0, len(rows), _CHUNK):
        scaler.partial_fit(np.asarray(features.features[rows[first : first + _CHUNK]], np.float64))
    return scaler.transform, features.layers


def _whitener(features: FeatureSet) -> tuple[Transform, list[Layer]]:
    width = features.features.shape[1]
    if width > _WIDEST:
        raise EvalkitError(
            f"{features.encoder}: {width:,} columns, PCA takes at most {_WIDEST:,}; use --scaling standardise"
        )
    rows = features.rows("train")
    pca = PCA(_VARIANCE, whiten=True, svd_solver="covariance_eigh" if len(rows) > width else "full")
    pca.fit(np.asarray(features.features[rows[0] : rows[-1] + 1], np.float32))
    count = int(pca.n_components_)
    return pca.transform, [Layer("pca", count, 1, 0, count)]


def _write_rows(features: FeatureSet, transform: Transform, artifact: ArtifactWriter) -> None:
    done = artifact.progress.get("rows", 0)
    length = transform(np.asarray(features.features[:1], np.float32)).shape[1]
    with NpyWriter(artifact.path / "features.npy", (length,), features.features.dtype, rows=done) as writer:
        for first in range(done, len(features.features), _CHUNK):
            writer.append(transform(np.asarray(features.features[first : first + _CHUNK], np.float32)))
            writer.sync()
            artifact.save(rows=writer.rows)


def concat(sets: Sequence[FeatureSet], target: Path, *, replace: bool = False) -> FeatureSet:
    """One feature set with the columns of all `sets`, in order; read and written in chunks.

    Raises:
        EvalkitError: fewer than two sets, or sets of other images: other hashes, labels or splits.
    """
    if len(sets) < 2:
        raise EvalkitError(f"{len(sets)} feature set, expected two or more to put side by side")
    first = sets[0]
    for other in sets[1:]:
        _check_same_images(first, other)
    layers = _side_by_side(sets)
    weights = [each.weights_sha256 for each in sets]
    content = Content(
        read=lambda start, end: np.concatenate([each.features[start:end] for each in sets], axis=1),
        shape=(len(first.labels), layers[-1].offset + layers[-1].length),
        dtype=str(np.result_type(*(each.features.dtype for each in sets))),
        labels=first.labels,
        class_names=first.class_names,
        splits=first.splits,
        layers=layers,
    )
    settings = {"dataset": first.dataset, "encoder": " + ".join(each.encoder for each in sets)}
    made_from = {
        "weights_sha256": sha256_json(weights) if any(weights) else "",
        "images_sha256": next((found for each in sets if (found := _images(each))), ""),
        "features_sha256": [each.sha256 for each in sets],
    }
    return write_features(content, target, settings=settings, made_from=made_from, replace=replace)


def _images(features: FeatureSet) -> str:
    """Hash of the images; empty for features made elsewhere."""
    return features.manifest["made_from"].get("images_sha256", "")


def _check_same_images(one: FeatureSet, other: FeatureSet) -> None:
    """By the images' hash where both have one; labels and splits have to agree in any case."""
    names = f"{one.dataset} by {one.encoder} and {other.dataset} by {other.encoder}"
    if len(one.labels) != len(other.labels):
        raise EvalkitError(f"{names}: {len(one.labels):,} and {len(other.labels):,} rows, expected the same images")
    if _images(one) and _images(other) and _images(one) != _images(other):
        hashes = f"{_images(one)[:12]}… and {_images(other)[:12]}…"
        raise EvalkitError(f"{names}: made from other images ({hashes}), expected the same")
    if one.splits != other.splits:
        raise EvalkitError(f"{names}: splits {one.splits} and {other.splits}, expected the same")
    if not np.array_equal(one.labels, other.labels):
        row = int((one.labels != other.labels).argmax())
        raise EvalkitError(
            f"{names}: row {row} has label {one.labels[row]} and {other.labels[row]}; expected the same images in "
            "the same order"
        )


def _side_by_side(sets: Sequence[FeatureSet]) -> list[Layer]:
    """The layers of all sets with their new columns; a name that occurs twice gets the encoder before it."""
    names = [layer.name for each in sets for layer in each.layers]
    layers, offset = [], 0
    for number, each in enumerate(sets, start=1):
        for layer in each.layers:
            unique = layer.name if names.count(layer.name) == 1 else f"{number}/{layer.name}"
            layers.append(replace(layer, name=unique, offset=offset + layer.offset))
        offset += each.features.shape[1]
    return layers

"""Scaled feature sets: columns standardised, or whitened by PCA, with the statistics of the training rows.

`evaluate(..., scaling=...)` fits classifiers on them in place of the features themselves.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from evalkit.artifacts import ArtifactWriter, already_built, new_manifest, write_artifact
from evalkit.errors import EvalkitError
from evalkit.features.featureset import KIND, FeatureSet, Layer, load_features
from evalkit.features.writer import layout
from evalkit.npy import NpyWriter

SCALINGS = {"standardise": "standardised", "whiten": "PCA-whitened"}  # option -> what results say
_VARIANCE = 0.99  # share that the principal components keep; whitening more of it amplifies noise
_CHUNK = 2048  # rows
_WIDEST = 8192  # columns that PCA takes: its covariance is columns x columns
Transform = Callable[[np.ndarray], np.ndarray]


def scale(features: FeatureSet, target: Path, scaling: str) -> FeatureSet:
    """The features with each column standardised, or projected on principal components of variance 1; in `target`.

    A set that is there and was made from the same features is returned as it is; an interrupted one resumes.

    Args:
        features: with a split `train`.
        target: the new feature set's directory.
        scaling: a name in SCALINGS.

    Raises:
        EvalkitError: more columns than PCA takes.
    """
    settings = features.manifest["settings"] | {"scaling": SCALINGS[scaling]}
    made_from = features.manifest["made_from"] | {"features_sha256": features.sha256}
    with write_artifact(target, settings=settings, made_from=made_from) as artifact:
        if already_built(target, KIND, settings=settings, made_from=made_from, replace=True):
            return load_features(target)
        transform, layers = _standardiser(features) if scaling == "standardise" else _whitener(features)
        _write_rows(features, transform, artifact)
        np.save(artifact.path / "labels.npy", features.labels)
        manifest = features.manifest | new_manifest(KIND, settings=settings, made_from=made_from)
        artifact.finish(manifest | layout(features.class_names, features.splits, layers))
    return load_features(target)


def _standardiser(features: FeatureSet) -> tuple[Transform, list[Layer]]:
    """Mean 0 and variance 1 for every column; constant columns become 0."""
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
    dtype = np.result_type(features.features.dtype, np.float16)  # uint8 cannot hold scaled columns
    with NpyWriter(artifact.path / "features.npy", (length,), dtype, rows=done) as writer:
        for first in range(done, len(features.features), _CHUNK):
            writer.append(transform(np.asarray(features.features[first : first + _CHUNK], np.float32)))
            writer.sync()
            artifact.save(rows=writer.rows)

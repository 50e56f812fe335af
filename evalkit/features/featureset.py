"""FeatureSet: one row of numbers per image, with labels, splits and the columns of each layer.

`extract` and `import_features` write feature sets, `FeatureSet.from_arrays` makes one in memory, and evaluation fits
classifiers on them. Opening one needs neither torch nor an encoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evalkit.artifacts import Manifest, new_manifest, read_manifest, sha256_file, verify_files
from evalkit.errors import ArtifactError, EvalkitError, one_line
from evalkit.features.arrays import (
    as_array,
    check_features,
    check_finite,
    row_chunks,
    rows_by_split,
    sha256_of_array,
)
from evalkit.features.labels import check_labels, encode_labels
from evalkit.features.npy_files import open_array
from evalkit.features.rounding import say_rounding
from evalkit.workspace import Workspace

KIND = "feature set"


@dataclass(frozen=True)
class Layer:
    """The columns of one layer's features: offset to offset + length; channel by channel, each grid x grid.

    `grid` is 1 for vectors and 0 for maps of unequal sides. `channels_last` is how the network lays its maps out, not
    how they lie here.
    """

    name: str
    channels: int
    grid: int
    offset: int
    length: int
    channels_last: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Provenance:
    """What a feature set's manifest says about its origin.

    Attributes:
        dataset: name of the image set.
        encoder: name of the encoder.
        variant: what differs from the encoder's own batch norm and the paper's layers, in words.
        weights: path of the encoder's weights file; empty where there is none.
        batch_norm: whose statistics normalise; empty for a network without batch norm.
        scaling: how the columns were scaled; empty if they were not.
        sha256: of the features; weights_sha256, images_sha256: of the encoder's weights and of the images, empty
            where they are not known.
        files: hashes of imported files by name.
        created: date and time; evalkit, commit: the version that made it.
    """

    dataset: str
    encoder: str
    variant: tuple[str, ...] = ()
    weights: str = ""
    batch_norm: str = ""
    scaling: str = ""
    sha256: str = ""
    weights_sha256: str = ""
    images_sha256: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    evalkit: str = ""
    commit: str = ""

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "Provenance":
        """The provenance in a manifest; what an older or foreign one lacks stays empty."""
        settings, made_from = manifest["settings"], manifest["made_from"]
        return cls(
            dataset=settings["dataset"],
            encoder=settings["encoder"],
            variant=tuple(manifest.get("variant", ())),
            weights=settings.get("weights", ""),
            batch_norm=settings.get("batch_norm", ""),
            scaling=settings.get("scaling", ""),
            sha256=manifest["files"]["features.npy"]["sha256"],
            weights_sha256=made_from.get("weights_sha256", ""),
            images_sha256=made_from.get("images_sha256", ""),
            files=made_from.get("files", {}),
            created=manifest.get("created", ""),
            evalkit=manifest.get("versions", {}).get("evalkit", ""),
            commit=manifest.get("commit", ""),
        )


@dataclass(frozen=True)
class FeatureSet:
    """Features of all images of an image set.

    Attributes:
        features: float16 or float32 (N, D), memory-mapped where they come from a file.
        labels: int64 (N,); -1 is no label.
        class_names: the K names.
        splits: name -> (first row, row after the last).
        layers: the layers' columns, in order.
        manifest: settings, hashes and versions as they are stored; `provenance` has them by name.
        path: the feature set's directory; None: it is in memory.
    """

    features: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    splits: dict[str, tuple[int, int]]
    layers: list[Layer]
    manifest: Manifest
    path: Path | None = None
    _workspace: Workspace | None = field(default=None, repr=False, compare=False)  # keeps a temporary one alive

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any,
        X_test: Any = None,
        y_test: Any = None,
        *,
        splits: Any = None,
        name: str = "arrays",
        encoder: str = "arrays",
        class_names: Sequence[str] | None = None,
        images_sha256: str = "",
        sha256: str = "",
    ) -> "FeatureSet":
        """A feature set of arrays in memory; no file is written.

        Args:
            X: (N, D) numbers, one row per image: an array or a tensor. float16, float32 and uint8 stay; other types
                become float32.
            y: N labels: whole numbers (-1: no label) or names.
            X_test, y_test: the rows of the split `test`; X and y are then the split `train`.
            splits: the name of a split for each row of X, or {name: (first row, row after the last)}; rows in no
                range are left out. By default all rows of X are the split `train`.
            name: the data set's name, as results show it.
            encoder: the encoder's name, likewise.
            class_names: names of the labels 0 to K - 1; by default the labels that occur.
            images_sha256: hash of the images, where it is known.
            sha256: hash of the features, where it is known; by default that of their .npy file.

        Raises:
            EvalkitError: arrays of another shape or type, lengths that differ, numbers that are not finite.
        """
        if (X_test is None) != (y_test is None):
            raise EvalkitError("X_test and y_test: one of them is missing; expected both or neither")
        if X_test is not None and splits is not None:
            raise EvalkitError("X_test and splits: expected one of them; splits divide the rows of X")
        features, parts = _joined(X, y, X_test, y_test)
        labels, names = encode_labels(parts, class_names)
        places = {"train": (0, len(parts[0]))} | ({"test": (len(parts[0]), len(labels))} if X_test is not None else {})
        if splits is not None:
            order, places = rows_by_split(splits, len(labels), "splits")
            if not np.array_equal(order, np.arange(len(labels))):
                features, labels = features[order], labels[order]
        for chunk in row_chunks(features):
            check_finite(features[chunk], chunk.start, name)
        settings = {"dataset": name, "encoder": encoder, "weights": "", "batch_norm": "", "dtype": str(features.dtype)}
        manifest = new_manifest(
            KIND, settings=settings, made_from={"weights_sha256": "", "images_sha256": images_sha256}
        )
        manifest["files"] = {"features.npy": {"sha256": sha256 or sha256_of_array(features)}}
        length = features.shape[1]
        return cls(features, labels, names, places, [Layer("features", length, 1, 0, length)], manifest)

    def kept_by(self, workspace: Workspace) -> "FeatureSet":
        """This set, which keeps `workspace` alive if that is temporary and would go with its last reference."""
        return replace(self, _workspace=workspace) if workspace.is_temporary else self

    @property
    def provenance(self) -> Provenance:
        """What the manifest says about the features' origin."""
        return Provenance.from_manifest(self.manifest)

    @property
    def dataset(self) -> str:
        """Name of the image set."""
        return self.provenance.dataset

    @property
    def encoder(self) -> str:
        """Name of the encoder, with the batch norm and the layers where they are not its own or the paper's."""
        origin = self.provenance
        return f"{origin.encoder} ({', '.join(origin.variant)})" if origin.variant else origin.encoder

    @property
    def sha256(self) -> str:
        """SHA-256 of `features.npy`."""
        return self.provenance.sha256

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the encoder's weights; empty for pixels."""
        return self.provenance.weights_sha256

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, int64.

        Raises:
            ArtifactError: no such split; the message lists the splits.
        """
        if split not in self.splits:
            raise ArtifactError(f"{self.dataset}: no split {split!r}; it has {', '.join(self.splits)}")
        return np.arange(*self.splits[split])

    def chunks(self, split: str | None = None, *, rows: int = 1024) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(features float32 (n, D), labels (n,)) of a split, or of all rows, at most `rows` at a time, in order."""
        numbers = np.arange(len(self.labels)) if split is None else self.rows(split)
        first, end = (int(numbers[0]), int(numbers[-1]) + 1) if len(numbers) else (0, 0)
        for start in range(first, end, rows):
            chunk = slice(start, min(start + rows, end))
            yield self.features[chunk].astype(np.float32), self.labels[chunk]


def _joined(X: Any, y: Any, X_test: Any, y_test: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """The checked features of all parts as one array, and the labels of each part."""
    features = as_array(X)
    columns = check_features(features, "X")
    labels = [check_labels(as_array(y), len(features), "y")]
    if X_test is not None:
        test = as_array(X_test)
        check_features(test, "X_test", columns=columns, like="X")
        labels.append(check_labels(as_array(y_test), len(test), "y_test"))
        features = np.concatenate([features, test])
    if features.dtype in (np.float16, np.float32, np.uint8):
        return features, labels
    with np.errstate(over="ignore"):  # what overflows is refused as not finite
        stored = features.astype(np.float32)
    if all(np.isfinite(stored[chunk]).all() for chunk in row_chunks(stored)):
        any(say_rounding(features[chunk], stored[chunk], "X") for chunk in row_chunks(stored))
    return stored, labels


def load_features(features: Path | str | None = None, *, home: Workspace | Path | str | None = None) -> FeatureSet:
    """Opens a feature set, memory-mapped.

    Args:
        features: its directory, or its name in the workspace; None: the latest one there.
        home: the workspace; not needed for a directory.

    Raises:
        ArtifactError: nothing there, cut short, or not a feature set.
        EvalkitError: the encoder's weights file exists and has changed since.
    """
    if features is None and home is None:
        raise EvalkitError("no features: expected a feature set's directory, or home= for the latest one there")
    directory = Path(features or "") if home is None else _find(Workspace.of(home), features)
    manifest = read_manifest(directory, KIND)
    try:
        opened = _opened(directory, manifest)
        _check_parts(opened)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArtifactError(
            f"{directory}: a damaged or edited manifest ({ascii(one_line(error))[1:-1]}); make the features again"
        ) from None
    _check_weights(opened.provenance.weights, opened.provenance.weights_sha256)
    verify_files(directory, manifest)
    return opened


def _opened(directory: Path, manifest: Manifest) -> FeatureSet:
    return FeatureSet(
        features=open_array(directory / "features.npy"),
        labels=np.array(open_array(directory / "labels.npy")),
        class_names=[str(name) for name in list(manifest["class_names"])],
        splits={name: (first, end) for name, (first, end) in manifest["splits"].items()},
        layers=[Layer(**layer) for layer in manifest["layers"]],
        manifest=manifest,
        path=directory,
    )


def _check_parts(features: FeatureSet) -> None:
    """Compares features, labels, splits and layers of a feature set on disk with each other.

    Raises:
        ArtifactError: the first that does not fit the others.
    """
    (rows, columns), labels = features.features.shape, features.labels
    problems = {
        "features.npy": features.features.dtype not in (np.float16, np.float32),
        "labels.npy": labels.dtype != np.int64 or labels.shape != (rows,),
        "a label": labels.min(initial=-1) < -1 or labels.max(initial=-1) >= len(features.class_names),
        "a split": not all(
            type(first) is type(end) is int and 0 <= first <= end <= rows for first, end in features.splits.values()
        ),
        "a layer": not all(
            all(type(number) is int and number >= 0 for number in (x.channels, x.grid, x.offset, x.length))
            and x.offset + x.length <= columns
            for x in features.layers
        ),
        "a text": not all(
            isinstance(text, str) and text.isprintable()
            for text in (features.dataset, features.encoder, features.provenance.weights, *features.splits)
        ),
    }
    wrong = [name for name, is_wrong in problems.items() if is_wrong]
    if wrong:
        raise ArtifactError(f"{features.path}: {wrong[0]} does not fit the others; make the features again")


def _find(workspace: Workspace, features: Path | str | None) -> Path:
    return workspace.latest(KIND) if features is None else workspace.find(KIND, str(features))


def _check_weights(path: str, sha256: str) -> None:
    """Refuses features whose weights file has changed since.

    Raises:
        EvalkitError: the file is there and hashes to something else.
    """
    if path and Path(path).is_file() and sha256_file(Path(path)) != sha256:
        raise EvalkitError(f"{path}: no longer the weights these features were made with; run `evalkit extract` again")


def as_feature_set(features: Any = None, *, home: Workspace | Path | str | None = None) -> FeatureSet:
    """A feature set of anything that names or holds features.

    Args:
        features: a FeatureSet, which is returned as it is; arrays (X, y) or (X, y, X_test, y_test); a directory; a name
            in the workspace; None: the latest feature set there.
        home: the workspace.

    Raises:
        EvalkitError: none of these, or what `load_features` and `FeatureSet.from_arrays` refuse.
    """
    if isinstance(features, FeatureSet):
        return features
    if isinstance(features, (tuple, list)) and len(features) in (2, 4):
        return FeatureSet.from_arrays(*features)
    if features is None or isinstance(features, (str, Path)):
        return load_features(features, home=home)
    raise EvalkitError(
        f"{type(features).__name__}: expected a FeatureSet, a name or path, or arrays (X, y, X_test, y_test)"
    )


def layer_columns(features: FeatureSet, layers: str) -> np.ndarray:
    """The columns of one layer ("conv3") or of consecutive ones ("conv1..conv4"), as a view (N, columns); "" is all.

    Raises:
        EvalkitError: no such layer; the message lists the layers.
    """
    if not layers:
        return features.features
    by_name = {layer.name: layer for layer in features.layers}
    first, dots, last = layers.partition("..")
    begin, end = by_name.get(first), by_name.get(last if dots else first)
    if begin is None or end is None or begin.offset > end.offset:
        raise EvalkitError(f"{layers}: no layers of {features.encoder}; choose {', '.join(by_name)}, or FIRST..LAST")
    return features.features[:, begin.offset : end.offset + end.length]

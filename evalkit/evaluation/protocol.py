"""What a protocol is: which labels are drawn, where C is chosen, what is repeated. Light to import."""

from dataclasses import dataclass, replace

from evalkit.errors import EvalkitError

C_GRIDS = ("extended", "release")
SELECTIONS = ("validation", "test")
# differs from the paper: 10 and 100 draws whatever their size.
_FEW_ROWS = 2_000  # draws of more rows are repeated less by default: their cost grows with the cube of the rows


@dataclass(frozen=True)
class Protocol:
    """How a figure is measured.

    Attributes:
        labels_per_class: None for all training labels, else the labels of each draw.
        grid: `extended` (the classifier's values, going on where validation picks an end) or `release`.
        validation: rows set aside for the choice of C; at most a fifth of the training rows.
        select_draws: draws that choose C (10 in the release).
        repeats: fresh draws that are tested (100 in the release).
        seed: of the validation split and the draws.
        folds: choose C by cross-validation in so many folds, instead of on rows set aside.
        selected_on: `validation`, or `test` to choose C by test accuracy; figures and tables then say so.

    Raises:
        EvalkitError: counts below one, one fold, repeats of all labels, or an unknown grid.
    """

    labels_per_class: int | None = None
    c_grid: str = "extended"
    validation: int = 10_000
    num_selection_subsets: int | None = None
    num_test_subsets: int | None = None
    seed: int = 0
    folds: int | None = None
    select_on: str = "validation"

    def __post_init__(self) -> None:
        for key in ("labels_per_class", "validation", "num_selection_subsets", "num_test_subsets"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise EvalkitError(f"protocol: {key} = {value}, expected at least 1")
        if self.folds is not None and self.folds < 2:
            raise EvalkitError(f"protocol: folds = {self.folds}, expected at least 2")
        for key, choices in (("c_grid", C_GRIDS), ("select_on", SELECTIONS)):
            if getattr(self, key) not in choices:
                raise EvalkitError(f"protocol: {key} {getattr(self, key)!r}, expected {' or '.join(choices)}")
        if self.labels_per_class is None and (self.num_test_subsets or self.num_selection_subsets):
            raise EvalkitError("protocol: all labels are one draw, nothing to repeat; give labels a class as well")

    @property
    def name(self) -> str:
        """As figures carry it: "all" or the number of labels a class."""
        return "all" if self.labels_per_class is None else str(self.labels_per_class)

    def with_counts(self, classes: int) -> "Protocol":
        """The protocol with its numbers of draws filled in: the release's, or fewer where a draw is large."""
        if self.labels_per_class is None:
            return self
        few = self.labels_per_class * classes <= _FEW_ROWS
        return replace(
            self,
            num_selection_subsets=self.num_selection_subsets or (10 if few else 3),
            num_test_subsets=self.num_test_subsets or (100 if few else 10),
        )


# Published protocols whose name does not say it all. Every other name is DATASET or DATASET:LABELS_PER_CLASS.
PROTOCOLS = {
    # Radford et al. 2016, table 2 and the release's script: 1,000 labels in all, 10,000 rows of validation
    "svhn:1000": Protocol(labels_per_class=100, c_grid="release", num_selection_subsets=10, num_test_subsets=100),
}


def protocol_named(name: str) -> tuple[str, Protocol]:
    """Data set and protocol of a name: DATASET (all labels), DATASET:k (k labels a class), or one of PROTOCOLS.

    Raises:
        EvalkitError: k is no whole number of at least 1.
    """
    dataset, colon, count = name.partition(":")
    if name in PROTOCOLS:
        return dataset, PROTOCOLS[name]
    if not dataset or (colon and not (count.isdecimal() and int(count))):
        known = ", ".join(("cifar10", "cifar10:400", *PROTOCOLS))
        raise EvalkitError(f"{name}: no such protocol; expected DATASET or DATASET:LABELS_PER_CLASS, such as {known}")
    return dataset, Protocol(int(count) if colon else None)


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    Attributes:
        about: what it is.
        encoder: the encoder's name; empty where the images themselves are fitted.
        classifier: a name in `evalkit.probes.classifiers.CLASSIFIERS`; empty for the supervised CNN.
        scaling: of the features, a name in `evalkit.features.transforms.SCALINGS`.
    """

    about: str
    encoder: str
    classifier: str = "svm"
    scaling: str | None = None


BASELINES = {
    "pixels": Baseline("raw pixels and L2-SVM", "pixels"),
    "whitened": Baseline("PCA-whitened pixels and L2-SVM", "pixels", scaling="whiten"),
    "random": Baseline("the network with random weights and L2-SVM", "random:{recipe}"),
    "kmeans": Baseline("standardised K-means features and L2-SVM", "kmeans:{dictionary}", scaling="standardise"),
    "knn": Baseline("k nearest neighbours", "pixels", classifier="knn"),
    "logistic": Baseline("logistic regression", "pixels", classifier="logistic"),
    "cnn": Baseline("the network trained on the labels alone, by random search", "", classifier=""),
}


@dataclass(frozen=True)
class BaselineOptions:
    """What some of the baselines can be told.

    Attributes:
        features: a feature set to fit on, instead of the baseline's own (knn, logistic).
        recipe: the network of `random` and `cnn`.
        centroids, patches: of `kmeans`.
        trials, updates, minutes: of `cnn`: networks tried, updates of each, and when to stop beginning new ones.
        device: of extraction and fits.
    """

    features: str | None = None
    recipe: str = "imagenet32"
    centroids: int = 1600
    patches: int = 400_000
    trials: int = 64
    updates: int = 2000
    minutes: float = float("inf")
    device: str = "auto"


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` measures: one trained encoder and its baselines on one data set under some protocols.

    `shipped` names weights that come with evalkit, used where nobody asks for training; empty where there are none.
    """

    recipe: str
    dataset: str
    baselines: tuple[str, ...]
    labels_per_class: tuple[int | None, ...]
    shipped: str = ""


REPRODUCTIONS = {
    "digits": Reproduction("digits", "digits", ("random:digits", "pixels"), (None, 10)),
    "cifar10": Reproduction("imagenet32", "cifar10", ("random:imagenet32", "pixels"), (None, 400), "imagenet32-tiny"),
    "svhn": Reproduction("svhn", "svhn", ("random:svhn", "pixels"), (100,)),
}

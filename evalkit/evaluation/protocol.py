"""Protocols: which training labels a result uses, where the hyperparameter is selected, and how many fits are averaged.

Also what `evalkit baseline` and `evalkit reproduce` can run under them. Standard library only: the command line builds
its options from these dataclasses. `label_subsets` turns a protocol into row numbers, `evaluate` into a result.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from evalkit.errors import EvalkitError
from evalkit.settings import setting

CGrid = Literal["extended", "release"]
SelectOn = Literal["validation", "test"]
C_GRIDS: tuple[str, ...] = get_args(CGrid)
# differs from the paper: it uses 10 and 100 label subsets whatever their size.
_FEW_ROWS = 2_000  # larger label subsets are fewer by default: the cost of a fit grows with the cube of its rows


@dataclass(frozen=True)
class Protocol:
    """How a result is measured.

    Attributes:
        labels_per_class: labels per class in each label subset; None uses all training labels.
        c_grid: `extended` (the classifier's candidates, searched beyond an end that is best) or `release`.
        validation: training rows held out to select the hyperparameter; at most a fifth of them.
        num_selection_subsets: label subsets that select the hyperparameter (10 in the release).
        num_test_subsets: further label subsets whose fits are tested (100 in the release).
        seed: seed of the validation split and of the label subsets.
        folds: select the hyperparameter by cross-validation in this many folds instead of on held-out rows.
        select_on: `validation`, or `test` to select the hyperparameter by test accuracy; results and tables say so.
        dataset: the data set that the protocol belongs to; None takes features of any.

    Raises:
        EvalkitError: a count below its minimum, a number of label subsets although all labels are used, or an unknown
            choice.
    """

    labels_per_class: int | None = setting(
        None, "Labels per class in each label subset [default: all, or the named protocol's].", minimum=1
    )
    c_grid: CGrid = setting(
        "extended",
        "C values to search: the release's seven; extended also searches beyond an end that is best, and on many rows "
        "stops after a clear fall.",
    )
    validation: int = setting(
        10_000, "Training rows held out to select the hyperparameter; at most a fifth.", minimum=1
    )
    num_selection_subsets: int | None = setting(
        None, "Label subsets that select the hyperparameter [default: 10, or 3 if they are large].", minimum=1
    )
    num_test_subsets: int | None = setting(
        None, "Label subsets whose fits are tested [default: 100, or 10 if they are large].", minimum=1
    )
    seed: int = setting(0, "Seed of the validation split and of the label subsets.", minimum=0)
    folds: int | None = setting(
        None, "Select the hyperparameter by cross-validation in this many folds instead.", minimum=2
    )
    select_on: SelectOn = setting(
        "validation", "Rows that select the hyperparameter; with test, the result and every table say so."
    )
    dataset: str | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value, minimum = getattr(self, each.name), each.metadata.get("minimum")
            if value is not None and minimum is not None and value < minimum:
                raise EvalkitError(f"protocol: {each.name} = {value}, expected at least {minimum}")
        for key, choices in (("c_grid", C_GRIDS), ("select_on", get_args(SelectOn))):
            if getattr(self, key) not in choices:
                raise EvalkitError(f"protocol: {key} {getattr(self, key)!r}, expected {' or '.join(choices)}")
        if self.labels_per_class is None and (self.num_test_subsets or self.num_selection_subsets):
            raise EvalkitError(
                "protocol: a number of label subsets, but all labels are used; give the labels per class as well"
            )

    @property
    def name(self) -> str:
        """The protocol's name in results: "all" or the number of labels per class."""
        return "all" if self.labels_per_class is None else str(self.labels_per_class)

    def with_counts(self, classes: int) -> "Protocol":
        """The protocol with its numbers of label subsets filled in: the release's, or fewer where they are large."""
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
    # Radford et al. 2016, table 2 and the release's script: 1,000 labels in total, 10,000 validation rows
    "svhn:1000": Protocol(
        labels_per_class=100, c_grid="release", num_selection_subsets=10, num_test_subsets=100, dataset="svhn"
    ),
}


def protocol_named(name: str) -> Protocol:
    """The protocol of a name: DATASET (all labels), DATASET:K (K labels per class), or one of PROTOCOLS.

    Raises:
        EvalkitError: K is not a whole number of at least 1.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    dataset, colon, count = name.partition(":")
    if not dataset or (colon and not (count.isdecimal() and int(count))):
        known = ", ".join(("cifar10", "cifar10:400", *PROTOCOLS))
        raise EvalkitError(f"{name}: no such protocol; expected DATASET or DATASET:LABELS_PER_CLASS, such as {known}")
    return Protocol(int(count) if colon else None, dataset=dataset)


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    Attributes:
        about: one line for tables and help.
        encoder: the encoder's name; empty where the images themselves are fitted.
        classifier: a name in `evalkit.probes.classifiers.CLASSIFIERS`; empty for the supervised CNN.
        scaling: scaling of the features, a name in `evalkit.features.transforms.SCALINGS`.
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
    """Settings of single baselines; the others ignore them."""

    features: str | None = setting(None, "Feature set that knn or logistic is fitted on [default: pixels].")
    recipe: str = setting("imagenet32", "Recipe whose network random and cnn use.")
    centroids: int = setting(1600, "Number of centroids of kmeans.", minimum=1)
    patches: int = setting(400_000, "Number of image patches that kmeans learns from.", minimum=1)
    trials: int = setting(64, "Number of networks that cnn trains to choose from.", minimum=1)
    updates: int = setting(2000, "Updates per network of cnn.", minimum=1)
    minutes: float = setting(float("inf"), "Minutes after which cnn starts no further network.", minimum=0)


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

"""Baselines under the tables' protocols: what to encode, how to scale and what to fit. `run` measures them.

A transductive SVM (tables 1 and 2 of the paper quote one) is not among them: no well-kept library has one, so its row
stays a published one.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    Attributes:
        about: what it is.
        encoder: the encoder's name; empty where the pictures themselves are fitted.
        classifier: a name in `evalkit.probes.CLASSIFIERS`; empty for the supervised CNN.
        scaling: of the features, a name in `evalkit.features.scaling.SCALINGS`.
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

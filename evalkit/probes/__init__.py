"""Probes: classifiers on frozen features."""

from evalkit.errors import EvalkitError
from evalkit.probes.classifier import Classifier
from evalkit.probes.knn import KNN
from evalkit.probes.logistic import LOGISTIC
from evalkit.probes.svm import SVM

CLASSIFIERS = {"svm": SVM, "knn": KNN, "logistic": LOGISTIC}


def classifier_named(name: str) -> Classifier:
    """A classifier by name.

    Raises:
        EvalkitError: no such classifier; the message lists them.
    """
    if name not in CLASSIFIERS:
        raise EvalkitError(f"{name}: no such classifier; choose {', '.join(CLASSIFIERS)}")
    return CLASSIFIERS[name]

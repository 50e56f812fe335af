"""The exact linear L2-SVM (squared hinge, one-vs-rest): an estimator, fits along C, and fits of many label draws."""

from evalkit.probes.l2svm.draws import DrawFits, l2svm_draws
from evalkit.probes.l2svm.estimator import L2SVM
from evalkit.probes.l2svm.fit import LinearFit
from evalkit.probes.l2svm.path import l2svm_path

__all__ = ["L2SVM", "DrawFits", "LinearFit", "l2svm_draws", "l2svm_path"]

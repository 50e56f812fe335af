"""The exact linear L2-SVM (squared hinge, one-vs-rest): an estimator, fits along C, and fits of many label draws."""

from evalkit.solver.fit import LinearFit, l2svm_path
from evalkit.solver.subsets import SubsetFits, l2svm_subsets

__all__ = ["SubsetFits", "LinearFit", "l2svm_subsets", "l2svm_path"]

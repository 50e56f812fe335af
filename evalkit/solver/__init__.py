"""The exact linear L2-SVM (squared hinge, one-vs-rest): an estimator, fits along C, and fits of many label draws."""

from evalkit.solver.fit import LinearFit, l2svm_path
from evalkit.solver.subsets import DrawFits, l2svm_draws

__all__ = ["DrawFits", "LinearFit", "l2svm_draws", "l2svm_path"]

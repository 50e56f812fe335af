"""The exact linear L2-SVM (squared hinge loss, one-vs-rest): fits along C, and fits of many label subsets.

The estimator with scikit-learn's interface is `evalkit.L2SVM`. This package imports `runtime` and `errors` only.
"""

from evalkit.solver.fit import LinearFit, l2svm_path
from evalkit.solver.subsets import SubsetFits, l2svm_subsets

__all__ = ["LinearFit", "SubsetFits", "l2svm_path", "l2svm_subsets"]

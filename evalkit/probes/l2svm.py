"""L2SVM: a scikit-learn estimator with LinearSVC's meaning, fitted by `evalkit.solver`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from evalkit.solver.fit import TOL, l2svm_path, score_rows, to_labels

# finiteness is checked by the fit itself, chunk by chunk, so that a memory map is read once
_ACCEPTED = {"dtype": [np.float16, np.float32, np.float64], "ensure_all_finite": False}


class L2SVM(ClassifierMixin, BaseEstimator):
    """Linear classifier that minimises 0.5 ||w||^2 + C sum max(0, 1 - y w.x)^2, one-vs-rest.

    The optimum is LinearSVC's (squared hinge, L2 penalty). The intercept is the weight of a constant feature and is
    penalised, as in liblinear. Nothing is random. A fit that misses `tol` raises ConvergenceError.

    Args:
        C: weight of the losses, inversely proportional to regularisation; positive.
        tol: largest relative error of each class's objective.
        fit_intercept: whether to learn an intercept.
        intercept_scaling: value of the constant feature; the larger it is, the less the intercept is penalised.
        class_weight: None, "balanced", or a mapping of label to weight.
        device: where to compute, as torch names it.
        storage: dtype in which the features are held: "auto" (float16 stays), "float16", "float32".
        memory: bytes (or "4GB") features may take before they stream from their file.
        polish: continue until the rigorous duality gap is small, too.

    Attributes:
        classes_: (K,) labels.
        coef_: float64 (K, D), or (1, D) for two classes.
        intercept_: float64 (K,) or (1,).
        n_iter_: largest number of iterations of any class.
        objective_, duality_gap_, error_estimate_: as in LinearFit, one per binary problem.
        n_features_in_: D.
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        tol: float = TOL,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: Mapping | str | None = None,
        device: str = "cpu",
        storage: str = "auto",
        memory: int | str | None = None,
        polish: bool = False,
    ) -> None:
        self.C = C
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.device = device
        self.storage = storage
        self.memory = memory
        self.polish = polish

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "L2SVM":
        """Fits to features X (N, D) and labels y (N,), with an optional weight per row."""
        if not isinstance(X, torch.Tensor):
            X, y = validate_data(self, X, y, **_ACCEPTED)
        else:
            self.n_features_in_ = X.shape[1]
        check_classification_targets(y)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, np.empty((len(y), 1)))
        fit = l2svm_path(
            X,
            y,
            [self.C],
            tol=self.tol,
            memory=self.memory,
            device=self.device,
            storage=self.storage,
            polish=self.polish,
            class_weight=self.class_weight,
            sample_weight=sample_weight,
            fit_intercept=self.fit_intercept,
            intercept_scaling=self.intercept_scaling,
        )[0]
        self.classes_ = fit.classes
        self.coef_ = fit.coef.astype(np.float64)
        self.intercept_ = fit.intercept
        self.objective_, self.duality_gap_, self.error_estimate_ = fit.objective, fit.duality_gap, fit.error_estimate
        self.n_iter_ = max(1, fit.n_iterations)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores (N, K), or (N,) for two classes, where a positive score means the second class."""
        check_is_fitted(self)
        if not isinstance(X, torch.Tensor):
            X = validate_data(self, X, reset=False, **_ACCEPTED)
        scores = score_rows(X, self.coef_, self.intercept_, device=self.device)
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """The label with the highest score for each row, (N,)."""
        check_is_fitted(self)
        return to_labels(self.classes_, self.decision_function(X))

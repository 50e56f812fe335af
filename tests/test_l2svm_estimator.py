"""L2SVM against scikit-learn: the same optimum as liblinear's, the same conventions (reference, invariance)."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator

from evalkit.probes.l2svm import L2SVM


def make_data(rows=150, features=30, classes=4, seed=0):
    """Overlapping classes around random centres, float64."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    centres = 0.4 * generator.normal(size=(classes, features))
    return centres[labels] + generator.normal(size=(rows, features)) + 0.5, labels


def liblinear(features, labels, *, C, sample_weight=None, **settings):
    """LinearSVC run until its own rule is far tighter than the comparison."""
    model = LinearSVC(C=C, dual=False, tol=1e-12, max_iter=1_000_000, **settings)
    return model.fit(features, labels, sample_weight=sample_weight)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"class_weight": "balanced"},
        {"class_weight": {0: 3.0, 2: 0.5}},
        {"intercept_scaling": 4.0},
        {"fit_intercept": False},
    ],
)
@pytest.mark.parametrize("classes", [2, 4])
def test_weights_and_intercepts_are_liblinears(settings, classes):
    features, labels = make_data(classes=classes)
    if classes == 2 and isinstance(settings.get("class_weight"), dict):
        settings = {"class_weight": {0: 3.0, 1: 0.5}}
    for C in (1e-3, 1.0):
        ours = L2SVM(C=C, **settings).fit(features, labels)
        theirs = liblinear(features, labels, C=C, **settings)
        size = np.abs(theirs.coef_).max()
        assert ours.coef_.shape == theirs.coef_.shape
        assert ours.intercept_.shape == np.shape(theirs.intercept_ + ours.intercept_)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=3e-5 * size)  # liblinear's own rest at its tightest
        np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=2e-5 * size)


def test_check_estimator():
    for result in check_estimator(L2SVM(), on_fail=None, on_skip=None):
        assert result["status"] in ("passed", "skipped"), (result["check_name"], result["exception"])


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_integer_sample_weights_equal_repeated_rows(class_weight):
    features, labels = make_data()
    weights = np.random.default_rng(1).integers(0, 4, len(labels))
    model = L2SVM(C=0.1, class_weight=class_weight)
    weighted = clone(model).fit(features, labels, sample_weight=weights)
    repeated = model.fit(np.repeat(features, weights, axis=0), np.repeat(labels, weights))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-7, atol=1e-9)  # float64, exact Newton


def test_row_order_does_not_matter():
    features, labels = make_data()
    order = np.random.default_rng(1).permutation(len(labels))
    one, two = L2SVM(C=0.1).fit(features, labels), L2SVM(C=0.1).fit(features[order], labels[order])
    np.testing.assert_allclose(one.coef_, two.coef_, rtol=1e-7, atol=1e-9)  # float64, exact Newton


def test_torch_tensors_and_float16_are_taken():
    features, labels = make_data()
    half = features.astype(np.float16)
    exact = L2SVM(C=0.1).fit(half.astype(np.float32), labels)
    for given in (half, torch.from_numpy(half), torch.from_numpy(half.astype(np.float32))):
        fitted = L2SVM(C=0.1).fit(given, labels)
        np.testing.assert_allclose(fitted.coef_, exact.coef_, atol=2e-6)  # float32 arithmetic on the same numbers
        np.testing.assert_array_equal(fitted.predict(given), exact.predict(half))


def test_works_in_pipeline_and_grid_search():
    features, labels = make_data()
    search = GridSearchCV(make_pipeline(StandardScaler(), L2SVM()), {"l2svm__C": [1e-3, 1e-1]}, cv=3)
    assert search.fit(features, labels).best_score_ > 0.5

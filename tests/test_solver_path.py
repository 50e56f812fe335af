"""Fits along C: both solvers against liblinear and each other, all kinds of input, certificates, failures."""

import numpy as np
import pytest
import torch
from helpers import CS, make_data
from sklearn.svm import LinearSVC

from evalkit.errors import ConvergenceError, EvalkitError
from evalkit.probes.l2svm import L2SVM
from evalkit.solver import dual as dual_module
from evalkit.solver import fit as fit_module
from evalkit.solver import l2svm_path, l2svm_subsets, memory
from evalkit.solver import rows as rows_module


def objective(features, labels, coef, intercept, C):
    """0.5 ||w||^2 + C sum of squared hinges of each one-vs-rest problem, plain numpy in float64."""
    signs = np.where(labels[:, None] == np.arange(len(coef)), 1, -1)
    margins = np.maximum(0, 1 - signs * (features.astype(np.float64) @ coef.T.astype(np.float64) + intercept))
    return 0.5 * ((coef.astype(np.float64) ** 2).sum(1) + intercept**2) + C * (margins**2).sum(0)


@pytest.fixture
def primal_solver(monkeypatch):
    """Sends small problems to the primal solver, too."""
    monkeypatch.setattr(fit_module, "FEW_ROWS", 1)


@pytest.mark.parametrize("rows, features", [(100, 400), (4100, 10)])  # the dual solver; the primal solver
def test_objective_intercept_and_predictions_equal_liblinear(rows, features):
    given, labels = make_data(rows, features)
    test, _ = make_data(500, features, seed=1)
    for C, fit in zip(CS, l2svm_path(given, labels, CS, tol=1e-7), strict=True):
        dual = features > rows
        theirs = LinearSVC(C=C, dual=dual, tol=1e-8, max_iter=10**6, random_state=0).fit(given.astype(float), labels)
        best = objective(given, labels, theirs.coef_, theirs.intercept_, C)
        ours = objective(given, labels, fit.coef, fit.intercept, C)
        assert fit.C == C
        np.testing.assert_allclose(ours, best, rtol=1e-6)  # 10 x tol
        np.testing.assert_allclose(fit.objective, ours, rtol=1e-6)  # float32 scores
        np.testing.assert_allclose(fit.intercept, theirs.intercept_, atol=1e-2 * np.abs(theirs.intercept_).max())
        assert (fit.predict(test) == theirs.predict(test)).mean() > 0.995  # ties of near-equal scores


@pytest.mark.parametrize("weights", [{}, {"class_weight": "balanced"}, {"fit_intercept": False}])
def test_primal_solver_reaches_the_optimum_of_the_dual_solver(weights, monkeypatch):
    features, labels = make_data(600, 300, dtype=np.float64)
    exact = l2svm_path(features, labels, CS, **weights)
    monkeypatch.setattr(fit_module, "FEW_ROWS", 1)
    monkeypatch.setattr(memory, "MAX_SAMPLE_ROWS", 200)
    for fit, best in zip(l2svm_path(features, labels, CS, tol=1e-9, **weights), exact, strict=True):
        np.testing.assert_allclose(fit.objective, best.objective, rtol=1e-7)  # 100 x the estimate asked for
        assert (fit.objective >= best.objective * (1 - 1e-12)).all()  # rounding


def test_gram_matrix_has_an_exact_diagonal(monkeypatch):
    features, labels = make_data(100, 6000)
    exact = features.astype(np.float64) @ features.T.astype(np.float64) + 4
    monkeypatch.setattr(dual_module, "_FLOAT64_OPERATIONS", 0)
    gram = dual_module.gram_matrix(torch.from_numpy(features), intercept_scaling=2.0).numpy()
    np.testing.assert_allclose(gram.diagonal(), exact.diagonal(), rtol=1e-9)  # sums of 6,000 terms in float64
    np.testing.assert_allclose(gram, exact, rtol=1e-6)  # sums of 1,024 terms in float32
    far = features + np.float32(30)  # of one sign: 5 million each product, from which float32 would leave 2
    gram = dual_module.gram_matrix(torch.from_numpy(far), intercept_scaling=None).numpy()
    np.testing.assert_allclose(gram, far.astype(np.float64) @ far.T.astype(np.float64), atol=2e-3, rtol=0)
    fit = l2svm_path(features, labels, [1e-2])[0]
    best = l2svm_path(features.astype(np.float64), labels, [1e-2])[0]
    np.testing.assert_allclose(fit.objective, best.objective, rtol=1e-6)  # what the benchmark asks for


@pytest.mark.parametrize("tol", [1e-1, 1e-3])
def test_duality_gap_is_a_bound(tol, primal_solver, monkeypatch):
    monkeypatch.setattr(memory, "MAX_SAMPLE_ROWS", 100)
    features, labels = make_data(600, 300, dtype=np.float64)
    for loose, exact in zip(
        l2svm_path(features, labels, CS, tol=tol), l2svm_path(features, labels, CS, tol=1e-12), strict=True
    ):
        error = (loose.objective - exact.objective) / loose.objective
        assert (loose.duality_gap >= error).all()
        assert (error > 0).any()
        if loose.C <= 1e-3:  # not a bound: at larger C this sample is too small
            assert (loose.error_estimate >= error).all()


def test_polish_reaches_a_small_rigorous_gap(primal_solver, monkeypatch):
    monkeypatch.setattr(memory, "MAX_SAMPLE_ROWS", 100)
    features, labels = make_data(600, 300)
    plain, polished = (l2svm_path(features, labels, [1.0], tol=1e-3, polish=polish)[0] for polish in (False, True))
    assert plain.duality_gap.max() > 1e-3
    assert polished.duality_gap.max() <= 1e-3


def test_missed_tolerance_raises():
    features, labels = make_data(100, 50)
    with pytest.raises(ConvergenceError, match=r"C = 1, class \d: relative error .* expected at most 1.0e-30"):
        l2svm_path(features, labels, [1.0], tol=1e-30)


@pytest.mark.parametrize("few", [True, False])
def test_all_kinds_of_input_give_the_same_fit(few, tmp_path, monkeypatch):
    features, labels = make_data(600, 100, dtype=np.float16)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    rows = np.random.default_rng(0).choice(600, 400, replace=False)
    monkeypatch.setattr(fit_module, "FEW_ROWS", 4000 if few else 1)
    monkeypatch.setattr(rows_module, "SLAB_BYTES", 2 * 100 * 70)  # 70 rows
    want = l2svm_path(features[np.sort(rows)].astype(np.float32), labels[np.sort(rows)], CS)
    np.save(tmp_path / "columns.npy", np.asfortranarray(features))
    np.save(tmp_path / "swapped.npy", features.astype(">f2"))
    others = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("columns", "swapped"))  # not streamed
    for number, given in enumerate((mapped, torch.from_numpy(features), features, *others)):
        got = l2svm_path(given, labels if number % 2 else labels[rows], CS, rows=rows)
        for one, two in zip(got, want, strict=True):
            np.testing.assert_allclose(one.coef, two.coef, atol=1e-4)  # another sample and order of sums: tol
            np.testing.assert_allclose(one.objective, two.objective, rtol=1e-6)  # tol
    swapped = l2svm_path(features.astype(">f4"), labels, CS)[0]
    np.testing.assert_allclose(swapped.objective, l2svm_path(features, labels, CS)[0].objective, rtol=1e-6)  # tol
    np.testing.assert_array_equal(got[0].predict(mapped, rows=np.arange(90)), got[0].predict(features[:90]))


def test_sample_weights_follow_their_rows():
    features, labels = make_data(100, 20, dtype=np.float64)
    random = np.random.default_rng(0)
    rows, weights = random.choice(100, 60, replace=False), random.uniform(size=100)
    want = l2svm_path(features[rows], labels[rows], CS, sample_weight=weights[rows])
    for given, of_given in ((labels, weights), (labels[rows], weights[rows])):
        for one, two in zip(l2svm_path(features, given, CS, rows=rows, sample_weight=of_given), want, strict=True):
            np.testing.assert_allclose(one.objective, two.objective, rtol=1e-9)  # float64, exact Newton


def test_streaming_within_a_memory_budget_keeps_the_objective(tmp_path, primal_solver, monkeypatch):
    features, labels = make_data(3000, 200)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    monkeypatch.setattr(memory, "MAX_SAMPLE_ROWS", 300)
    monkeypatch.setattr(memory, "_LIBRARY_BYTES", 0)
    for module in (memory, rows_module):
        monkeypatch.setattr(module, "SLAB_BYTES", 100_000)
    plan = memory.plan_memory(3000, 200, 9, 3, stored=torch.float32, memory=3_600_000)
    assert 0 < plan.resident_rows < 3000
    assert plan.group_size == 9
    whole, streamed = (l2svm_path(mapped, labels, CS, tol=1e-7, memory=size) for size in (None, "3.6MB"))
    for one, two in zip(whole, streamed, strict=True):
        np.testing.assert_allclose(one.objective, two.objective, rtol=1e-6)  # 10 x tol


def test_subsets_equal_single_fits():
    features, labels = make_data(900, 60, dtype=np.float16)
    generator = np.random.default_rng(0)
    subsets = [generator.choice(600, size, replace=False) for size in (80, 150)]
    evaluate = np.arange(600, 900)
    fits = l2svm_subsets(features, labels, subsets, CS, evaluate_rows=evaluate)
    assert fits.predictions.shape == (2, 3, 300)
    assert fits.duality_gap.max() < 1e-6
    for subset, rows in enumerate(subsets):
        for number, fit in enumerate(l2svm_path(features[rows], labels[rows], CS)):
            np.testing.assert_allclose(fits.objective[subset, number], fit.objective, rtol=1e-6)  # float32 sums
            assert (fits.predictions[subset, number] == fit.predict(features[evaluate])).mean() > 0.99  # ties


def test_subsets_read_each_row_once_or_stay_within_a_budget(tmp_path, monkeypatch):
    features, labels = make_data(900, 60, dtype=np.float16)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    generator, read = np.random.default_rng(0), []
    subsets = [generator.choice(200, 80, replace=False) for _ in range(4)]
    original = rows_module.FileRows.read
    monkeypatch.setattr(rows_module.FileRows, "read", lambda self, rows: (read.extend(rows), original(self, rows))[1])
    once = l2svm_subsets(mapped, labels, subsets, CS, evaluate_rows=np.arange(600, 900))
    assert sorted(read) == [*np.unique(subsets), *range(600, 900)]
    monkeypatch.setattr(memory, "_LIBRARY_BYTES", 0)
    monkeypatch.setattr(memory, "SLAB_BYTES", 0)
    threads = torch.get_num_threads()
    fixed = min(threads, 4) * (4 * 80 * 60 + 8 * 5 * 80 * 80)
    tight = l2svm_subsets(mapped, labels, subsets, CS, evaluate_rows=np.arange(600, 900), memory=fixed + 25_000)
    assert len(read) > 2 * (len(np.unique(subsets)) + 300)  # a group for every subset or two
    np.testing.assert_array_equal(tight.predictions, once.predictions)
    np.testing.assert_allclose(tight.objective, once.objective, rtol=1e-12)  # the same sums
    with pytest.raises(EvalkitError, match="memory budget .* subsets of 80 x 60 features need at least"):
        l2svm_subsets(mapped, labels, subsets, CS, evaluate_rows=np.arange(9), memory=fixed)


def broken(kind):
    features, labels = make_data(50, 10)
    if kind in ("nan", "inf", "big", "huge"):
        features[7, 3] = {"nan": np.nan, "inf": -np.inf, "big": 1e19, "huge": 1e30}[kind]
    if kind == "constant":
        labels[:] = 4
    return features, labels[:-1] if kind == "length" else labels


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        ("nan", {}, "row 7, column 3 is NaN"),
        ("inf", {}, "row 7, column 3 is infinity"),
        ("big", {}, "row 7, column 3 is 1e\\+19: float32 overflows"),
        ("huge", {}, "row 7, column 3 is 1e\\+30: float32 overflows"),
        ("constant", {}, r"every label is \[4\]"),
        ("length", {}, "labels have shape .49,., the features have 50 rows"),
        ("", {"Cs": [0.1, 0.0]}, "C = 0: C weighs the losses"),
        ("", {"Cs": [float("nan")]}, "C = nan"),
        ("", {"Cs": []}, "no C value given"),
        ("", {"memory": "4 apples"}, "memory '4 apples' is not a size"),
        ("", {"memory": "1KB"}, "memory budget .* need at least"),
        ("", {"memory": 0}, "memory budget 0.00 GB: .* need at least"),
        ("", {"storage": "int8"}, "storage is 'int8'"),
        ("", {"rows": np.array([0, 50])}, "expected row numbers from 0 to 49"),
        ("", {"sample_weight": -np.ones(50)}, "sample_weight: expected"),
        ("", {"class_weight": {9: 1.0}}, "class_weight names 9"),
    ],
)
def test_invalid_input_raises_a_one_line_error(kind, settings, message):
    with pytest.raises(EvalkitError, match=message) as caught:
        l2svm_path(*broken(kind), **{"Cs": [0.1], **settings})
    assert "\n" not in str(caught.value)


def test_bad_value_is_named_by_its_row_in_the_features():
    features, labels = make_data(60, 10)
    features[47, 3] = np.nan
    for given in (labels, labels[[5, 20, 47, 50]]):
        with pytest.raises(EvalkitError, match="features row 47, column 3 is NaN"):
            l2svm_path(features, given, [0.1], rows=np.array([5, 20, 47, 50]))
    with pytest.raises(EvalkitError, match="features row 47, column 3 is NaN"):
        l2svm_subsets(features, labels, [np.arange(10, 40), np.arange(20, 60)], [0.1], evaluate_rows=np.arange(9))


def test_subsets_with_invalid_rows_or_missing_classes_are_refused():
    features, labels = make_data(60, 10)
    for subsets, evaluate in (([np.arange(30)], []), ([np.arange(30)], [60]), ([np.arange(30), [60]], [0])):
        with pytest.raises(EvalkitError, match="expected row numbers from 0 to 59"):
            l2svm_subsets(features, labels, subsets, CS, evaluate_rows=np.array(evaluate))
    same = np.flatnonzero(labels != labels[0])
    with pytest.raises(EvalkitError, match="subset 1 has classes .*, the first subset has .0, 1, 2."):
        l2svm_subsets(features, labels, [np.arange(30), same], CS, evaluate_rows=np.arange(9))


def test_truncated_file_is_refused(tmp_path):
    features, labels = make_data(500, 100)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    with open(tmp_path / "features.npy", "r+b") as file:
        file.truncate(100_000)
    with pytest.raises(EvalkitError, match="features.npy: ends inside row 249 .* truncated"):
        l2svm_path(mapped, labels, [0.1])


def test_estimator_streams_and_reports_certificates(tmp_path):
    features, labels = make_data(300, 40)
    np.save(tmp_path / "features.npy", features)
    model = L2SVM(C=0.1).fit(np.load(tmp_path / "features.npy", mmap_mode="r"), labels)
    assert model.duality_gap_.shape == (3,)
    assert model.error_estimate_.shape == (3,)
    assert model.duality_gap_.max() <= 1e-6
    np.testing.assert_allclose(model.coef_, L2SVM(C=0.1).fit(features, labels).coef_, atol=1e-6)  # float32

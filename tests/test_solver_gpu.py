"""The solver on a GPU, or a simulated one if there is none: the CPU's optimum, and all tensors on the device."""

import numpy as np
import pytest
import torch
from helpers import CS, make_data
from pretended import gpu

from evalkit.solver import fit as fit_module
from evalkit.solver import l2svm_path, l2svm_subsets, memory
from evalkit.solver import rows as rows_module


@pytest.mark.parametrize("few_rows", [4000, 1])
def test_optimum_equals_that_of_the_cpu(few_rows, monkeypatch):
    monkeypatch.setattr(fit_module, "FEW_ROWS", few_rows)
    features, labels = make_data(150, 20, dtype=np.float16)
    settings = {"sample_weight": np.linspace(0, 2, 150), "class_weight": "balanced", "polish": True, "tol": 1e-7}
    want = l2svm_path(features, labels, CS, storage="float16", **settings)
    with gpu(monkeypatch, free_bytes=10**10) as device:
        fits = l2svm_path(features, labels, CS, storage="float16", device=device, **settings)
    for one, two in zip(fits, want, strict=True):
        np.testing.assert_allclose(one.objective, two.objective, rtol=1e-6)  # 10 x tol


def test_features_larger_than_gpu_memory_are_streamed(tmp_path, monkeypatch):
    features, labels = make_data(600, 100)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    monkeypatch.setattr(fit_module, "FEW_ROWS", 1)
    monkeypatch.setattr(memory, "MAX_SAMPLE_ROWS", 100)
    monkeypatch.setattr(memory, "_LIBRARY_BYTES", 0)
    for module in (memory, rows_module):
        monkeypatch.setattr(module, "SLAB_BYTES", 20_000)
    want, read = l2svm_path(mapped, labels, [1e-3], tol=1e-7)[0], []
    original = rows_module.FileRows.slabs
    monkeypatch.setattr(rows_module.FileRows, "slabs", lambda self: (read.append(len(self.rows)), original(self))[1])
    with gpu(monkeypatch, free_bytes=300_000) as device:
        fit = l2svm_path(mapped, labels, [1e-3], tol=1e-7, device=device)[0]
    np.testing.assert_allclose(fit.objective, want.objective, rtol=1e-6)  # 10 x tol
    assert 0 < read[0] < 600
    assert read[1:] == [600 - read[0]] * (len(read) - 1)
    assert len(read) > 10


def test_subset_predictions_equal_those_of_the_cpu(monkeypatch):
    features, labels = make_data(400, 60)
    subsets, evaluate = [np.arange(80), np.arange(50, 120)], np.arange(200, 400)
    want = l2svm_subsets(features, labels, subsets, CS, evaluate_rows=evaluate)
    with gpu(monkeypatch, free_bytes=10**10) as device:
        for given in (features, torch.from_numpy(features).to(device)):
            fits = l2svm_subsets(given, labels, subsets, CS, evaluate_rows=evaluate, device=device)
            np.testing.assert_allclose(fits.objective, want.objective, rtol=1e-6)  # float32 sums
            assert (fits.predictions == want.predictions).mean() > 0.99  # ties of near-equal scores


def test_tensor_left_on_the_cpu_raises(monkeypatch):
    with gpu(monkeypatch, free_bytes=10**10) as device, pytest.raises(RuntimeError, match="one device|same device"):
        torch.ones(3, device=device) + torch.ones(3)

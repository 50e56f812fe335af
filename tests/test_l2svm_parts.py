"""Parts of the solver: the line search against brute force, the choice of the matrix path, many processes."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from evalkit.probes.l2svm import l2svm_path, path, products
from evalkit.probes.l2svm.linesearch import exact_steps
from evalkit.probes.l2svm.memory import parse_memory
from evalkit.probes.l2svm.problem import Columns, losses


def test_line_search_finds_the_least_value_on_a_fine_grid():
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(50, 3, generator=generator).sign().double()
    columns = Columns(signs, torch.rand(50, 3, generator=generator).double())
    scores, change = torch.randn(2, 50, 3, generator=generator).double()
    change -= signs  # downhill or not, the three differ
    slope, curvature = torch.tensor([-0.5, 0.1, -2.0]).double(), torch.tensor([1.0, 0.2, 3.0]).double()
    steps = exact_steps(columns, scores, -change, slope=slope, curvature=curvature)
    grid = torch.linspace(0, 5, 5001).double()
    values = torch.stack([t * slope + t * t * curvature / 2 + losses(columns, scores - t * change) for t in grid])
    np.testing.assert_allclose(steps, grid[values.argmin(0)], atol=1e-3)  # the grid's spacing


def test_matrix_path_is_chosen_by_speed_among_accurate_ways(monkeypatch):
    def rounded(left, right):
        return (left.bfloat16() @ right.bfloat16().T).float()

    def missing(left, right):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(products, "PRODUCTS", {**products.PRODUCTS, "rounded": rounded, "missing": missing})
    products._checked_path.cache_clear()
    chosen = products.matrix_path(torch.device("cpu"))
    products._checked_path.cache_clear()
    assert chosen.errors["rounded"] > 20 * chosen.errors["default"]  # bfloat16 has 16 bits less
    assert "missing" not in chosen.gflops and chosen.name in ("default", "onednn")


@pytest.mark.parametrize("text, size", [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), (512, 512), ("2k", 2000)])
def test_parse_memory(text, size):
    assert parse_memory(text) == size


def make_data():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 500)
    return (generator.normal(size=(500, 60)) + 0.3 * generator.normal(size=(3, 60))[labels]).astype(np.float32), labels


def fit_share(rank, address, out):
    """Runs in a process of its own: the first takes 200 rows, the second 300; both solvers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    features, labels = make_data()
    share = slice(0, 200) if rank == 0 else slice(200, 500)
    settings = {"class_weight": "balanced", "distributed": True, "tol": 1e-7}
    objectives = []
    for path.FEW_ROWS in (1, 4000):
        fits = l2svm_path(features[share], labels[share], [1e-2, 1.0], **settings)
        objectives.append([fit.objective for fit in fits])
    np.save(f"{out}-{rank}.npy", np.array(objectives))
    dist.destroy_process_group()


def test_two_processes_find_the_optimum_of_one(tmp_path):
    processes.spawn(fit_share, args=(tmp_path / "store", tmp_path / "objective"), nprocs=2)
    first, second = (np.load(tmp_path / f"objective-{rank}.npy") for rank in (0, 1))
    np.testing.assert_array_equal(first, second)
    whole = np.stack([fit.objective for fit in l2svm_path(*make_data(), [1e-2, 1.0], class_weight="balanced")])
    for solver in first:
        np.testing.assert_allclose(solver, whole, rtol=1e-6)  # 10 x the estimate asked for

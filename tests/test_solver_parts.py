"""Parts of the solver against brute force and dense algebra; memory plans; matrix products; two processes."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from evalkit.errors import EvalkitError
from evalkit.runtime import Ranks
from evalkit.solver import fit as fit_module
from evalkit.solver import l2svm_path, memory, preconditioner
from evalkit.solver import passes as passes_module
from evalkit.solver import primal as primal_module
from evalkit.solver import rows as rows_module
from evalkit.solver.dual import ActiveSetFactors, gram_duality_gap, solve_gram
from evalkit.solver.memory import MemoryPlan, parse_memory, plan_memory
from evalkit.solver.passes import FeatureMatrix
from evalkit.solver.preconditioner import SampledHessian
from evalkit.solver.primal import Iterates, LBFGSHistory, Tolerance, _verify, check_convergence, remaining_decrease
from evalkit.solver.problem import BinaryProblems, Solution, dual_variables, exact_line_search, squared_hinge_loss
from evalkit.solver.rows import FeatureRows, open_rows
from evalkit.solver.subspace import minimize_in_subspaces


def test_line_search_finds_the_minimum_of_a_fine_grid():
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(50, 3, generator=generator).sign().double()
    problems = BinaryProblems(signs, torch.rand(50, 3, generator=generator).double())
    scores, direction_scores = torch.randn(2, 50, 3, generator=generator).double()
    direction_scores -= signs  # descent in some problems, ascent in others
    slope, curvature = torch.tensor([-0.5, 0.1, -2.0]).double(), torch.tensor([1.0, 0.2, 3.0]).double()
    grid = torch.linspace(0, 5, 2501).double()
    for way in (-1, 1):  # the second is an ascent direction for some, whose best step is 0
        steps = exact_line_search(problems, scores, way * direction_scores, slope=-way * slope, curvature=curvature)
        lines = [
            t * -way * slope + t * t * curvature / 2 + squared_hinge_loss(problems, scores + t * way * direction_scores)
            for t in grid
        ]
        np.testing.assert_allclose(steps, grid[torch.stack(lines).argmin(0)], atol=2e-3)  # the grid's spacing
    assert (steps < 1e-6).any()


def random_problems(count, generator):
    """Three problems: two of class 0 at different costs, one of class 1; features (count, 8), float64."""
    signs = torch.randn(count, 2, generator=generator).sign().double()[:, [0, 0, 1]]
    features = torch.randn(count, 8, generator=generator).double()
    return features, BinaryProblems(signs, torch.tensor([0.1, 1.0, 0.3]).double().expand(count, 3).contiguous())


def test_subspace_contains_no_better_point():
    generator = torch.Generator().manual_seed(1)
    features, problems = random_problems(40, generator)
    weights, directions = torch.randn(2, 3, 8, generator=generator).double()
    classes = torch.tensor([0, 0, 1])
    scores, direction_scores = features @ weights.T, features @ directions.T

    def value(w):
        return 0.5 * w.square().sum(1) + squared_hinge_loss(problems, features @ w.T)

    minimum, seen = weights, scores
    for _ in range(4):  # three Newton steps a call: on a piecewise quadratic the rest is exact
        minimum, seen = minimize_in_subspaces(
            problems,
            classes,
            weights=minimum,
            scores=seen,
            directions=directions,
            direction_scores=direction_scores,
            ranks=Ranks(),
        )
    np.testing.assert_allclose(seen, features @ minimum.T, atol=1e-10)  # float64, kept by recurrence
    subspaces = [torch.cat([directions[:2], minimum[:2]]), torch.cat([directions[:2], minimum[:2]])]
    subspaces.append(torch.cat([directions[2:], minimum[2:]]))
    for problem, subspace in enumerate(subspaces):
        for _ in range(50):
            aside = minimum.clone()
            aside[problem] += 1e-3 * torch.randn(len(subspace), generator=generator).double() @ subspace
            assert value(aside)[problem] >= value(minimum)[problem] * (1 - 1e-9)  # the ridge leaves 1e-10


@pytest.mark.parametrize("C, dtype", [(1e-3, torch.float32), (100.0, torch.float64)])
def test_float32_factors_are_used_only_where_the_ridge_is_large(C, dtype):
    generator = torch.Generator().manual_seed(3)
    features, problems = random_problems(60, generator)
    problems = BinaryProblems(problems.signs, torch.full_like(problems.costs, C))
    gram = features @ features.T * 100
    assert ActiveSetFactors(gram, problems, float64_factors=False).gram.dtype == dtype
    exact, quick = (solve_gram(gram, problems, tol=1e-6, float64_factors=exact) for exact in (True, False))
    np.testing.assert_allclose(quick.scores, exact.scores, rtol=1e-4, atol=1e-5)  # a gap of 1e-9: its square root
    assert (
        gram_duality_gap(problems, quick.beta, gram @ quick.beta, gram)
        <= 1e-9 * squared_hinge_loss(problems, exact.scores)
    ).all()


def test_factor_is_reused_for_the_same_rows_at_the_same_costs(monkeypatch):
    generator = torch.Generator().manual_seed(9)
    features, problems = random_problems(60, generator)
    problems = BinaryProblems(problems.signs, torch.tensor([0.1, 0.1, 1.0]).double().expand(60, 3).contiguous())
    gram, vector, made = features @ features.T, torch.randn(60, generator=generator).double(), []
    original = torch.linalg.cholesky
    monkeypatch.setattr(torch.linalg, "cholesky", lambda matrix: (made.append(matrix), original(matrix))[1])
    factors = ActiveSetFactors(gram, problems, float64_factors=True)
    for problem, size, count in ((0, 60, 1), (1, 60, 1), (2, 60, 2), (0, 60, 2), (0, 50, 3), (0, 50, 3)):
        solved = factors.solve(problem, torch.arange(size), vector[:size])
        exact = gram[:size, :size] + torch.eye(size).double() * 0.5 / problems.costs[0, problem]
        np.testing.assert_allclose(solved, torch.linalg.solve(exact, vector[:size]), rtol=1e-9)  # float64
        assert len(made) == count


def test_gram_duality_gap_is_primal_minus_dual():
    generator = torch.Generator().manual_seed(7)
    features, problems = random_problems(30, generator)
    costs = problems.costs.clone()
    costs[::5] = 0
    problems, gram = BinaryProblems(problems.signs, costs), features @ features.T
    beta = problems.signs * (torch.rand(30, 3, generator=generator).double() - 0.2)
    weights, alpha = features.T @ beta, (problems.signs * beta).clamp(min=0) * (costs > 0)
    primal = 0.5 * weights.square().sum(0) + squared_hinge_loss(problems, gram @ beta)
    spent = torch.where(costs > 0, alpha * alpha / (4 * costs), 0)
    dual = (alpha - spent).sum(0) - 0.5 * (features.T @ (problems.signs * alpha)).square().sum(0)
    assert ((1 - problems.signs * (gram @ beta) < 0) & (alpha > 0)).any(0).all()
    np.testing.assert_allclose(gram_duality_gap(problems, beta, gram @ beta, gram), primal - dual, rtol=1e-9)  # float64


def test_sampled_gap_is_a_bound_and_tighter_than_the_plain_one():
    generator = torch.Generator().manual_seed(2)
    features, problems = random_problems(400, generator)
    features[:, 0] += 30  # a large eigenvalue, which half the squared gradient overrates
    matrix = FeatureMatrix(FeatureRows(features), intercept_scaling=None)
    hessian = SampledHessian(matrix, sample_rows=100)
    weights = torch.zeros(3, 8).double()
    for _ in range(60):  # Newton's method with exact Hessians, to the optimum
        scores = features @ weights.T
        gradient = weights - dual_variables(problems, scores).mul(problems.signs).T @ features
        active = (1 - problems.signs * scores > 0) * problems.costs
        hessians = torch.eye(8).double() + 2 * torch.einsum("nk,nd,ne->kde", active, features, features)
        weights = weights - 0.5 * torch.linalg.solve(hessians, gradient)
    best = 0.5 * weights.square().sum(1) + squared_hinge_loss(problems, features @ weights.T)
    for size in (1e0, 1e-1, 1e-2, 1e-4):
        near = weights + size * torch.randn(3, 8, generator=generator).double()
        scores = features @ near.T
        gradient = near - dual_variables(problems, scores).mul(problems.signs).T @ features
        error = 0.5 * near.square().sum(1) + squared_hinge_loss(problems, scores) - best
        gap, plain = hessian.duality_gap(problems, scores, gradient), 0.5 * gradient.square().sum(1)
        assert (gap >= error * (1 - 1e-6)).all()  # best is known to 1e-9 of error
        if size <= 1e-2:
            assert (gap < 0.1 * plain).all()
    whole = SampledHessian(matrix, sample_rows=400).duality_gap(problems, scores, gradient)
    np.testing.assert_allclose(whole, error, rtol=1e-3)  # the best dual point, where no row is about to change sides


@pytest.mark.parametrize("shift", [0, 6])  # with 6 the best change of 20 rows' alpha, cut at 0, is worse than none
def test_sampled_gap_is_a_bound_far_from_the_optimum(shift):
    generator = torch.Generator().manual_seed(8)
    features = torch.randn(100, 8, generator=generator).double()
    signs = torch.randn(100, 1, generator=generator).double() if shift else features[:, :1]
    problems = BinaryProblems(signs.sign(), torch.ones(100, 1).double())
    features[:, 0] += shift
    optimum = solve_gram(features @ features.T, problems, tol=1e-6)
    best = 0.5 * (optimum.beta * optimum.scores).sum(0) + squared_hinge_loss(problems, optimum.scores)
    nowhere = torch.zeros(100, 1).double()
    gradient = -dual_variables(problems, nowhere).mul(problems.signs).T @ features
    for size in (100, 20):
        gap = SampledHessian(
            FeatureMatrix(FeatureRows(features), intercept_scaling=None), sample_rows=size
        ).duality_gap(problems, nowhere, gradient)
        error = (squared_hinge_loss(problems, nowhere) - best) * (1 - 1e-9)  # float64
        assert error <= gap <= 0.5 * gradient.square().sum(1)


@pytest.mark.parametrize("width", [8, 60])
def test_sampled_hessian_inverse_equals_dense_algebra(width):
    generator = torch.Generator().manual_seed(4)
    features, vectors = (torch.randn(rows, width, generator=generator).double() for rows in (80, 5))
    signs, scores = torch.randn(2, 80, 1, generator=generator).double().expand(2, 80, 5)
    costs = torch.rand(80, 5, generator=generator).double() + 0.1
    costs[::7] = 0
    costs[:40, 2] = 0.5
    costs[:, 3:] = torch.tensor([0.5, 0.6])  # equal costs allow problems to share factors, but these two differ
    problems = BinaryProblems(signs.sign(), costs)
    hessian = SampledHessian(FeatureMatrix(FeatureRows(features), intercept_scaling=None), sample_rows=40)
    sample = features[hessian.sample_index]
    tail = torch.linalg.eigvalsh(sample @ sample.T).clamp(min=0).median()  # 0 where rows are more than features

    def check(scores):
        for problem, solved in enumerate(hessian.apply_inverse(vectors)):
            active = ((1 - problems.signs * scores > 0) & (costs > 0))[hessian.sample_index, problem]
            weights = 2 * (80 / 40) * costs[hessian.sample_index, problem][active]
            tau = (weights.mean() * tail).clamp(min=1)
            exact = tau * torch.eye(width) + sample[active].T @ (weights[:, None] * sample[active])
            want = torch.linalg.solve(exact, vectors[problem])
            np.testing.assert_allclose(solved, want, rtol=1e-6, atol=1e-9)  # condition of exact

    hessian.initialize(problems, scores)
    check(scores)
    before, moved = hessian.apply_inverse(vectors), scores.clone()
    moved[hessian.sample_index[0]] *= -100
    hessian.update(moved)
    np.testing.assert_array_equal(
        hessian.apply_inverse(vectors), before
    )  # one more or one fewer active row needs no new factor
    hessian.update(-scores)
    check(-scores)


def test_tail_eigenvalue_is_the_median_of_the_sample(monkeypatch):
    monkeypatch.setattr(preconditioner, "_SPECTRUM_ROWS", 50)
    hessian = SampledHessian(
        FeatureMatrix(FeatureRows(torch.arange(1.0, 101).diag()), intercept_scaling=None), sample_rows=100
    )
    assert 49**2 <= hessian.tail_eigenvalue <= 52**2  # eigenvalues 1, 4, 9, ... 10,000


def test_history_equals_dense_bfgs_on_the_last_ten_pairs():
    generator = torch.Generator().manual_seed(6)
    history, dense = LBFGSHistory(), [0.5 * torch.eye(6).double() for _ in range(3)]
    for number in range(12):
        step, noise = torch.randn(2, 3, 6, generator=generator).double()
        change = 2 * step + 0.3 * noise
        change[1] *= -1 if number == 5 else 1  # negative curvature, as rounding may cause: the pair is not used
        history.add(step, change)
        for problem in range(3) if number >= 2 else ():
            s, y = step[problem], change[problem]
            if s @ y > 0:
                left = torch.eye(6) - torch.outer(s, y) / (s @ y)
                dense[problem] = left @ dense[problem] @ left.T + torch.outer(s, s) / (s @ y)
    history.select(torch.tensor([0, 1]))
    history.append_empty(1)
    vectors = torch.randn(3, 6, generator=generator).double()
    applied = history.apply_inverse(vectors, lambda vector: 0.5 * vector)
    want = torch.stack([dense[0] @ vectors[0], dense[1] @ vectors[1], 0.5 * vectors[2]])  # the last problem is new
    np.testing.assert_allclose(applied, want, rtol=1e-9, atol=1e-12)


def test_remaining_decrease_of_a_geometric_series():
    steps = torch.arange(12).double()
    kinds = [1 + 0.5**steps, 1 + 0.8**steps, torch.where(steps < 6, torch.nan, 1 + 0.5**steps), 12 - steps]
    objectives = list(torch.stack([*kinds, 1 + 1e-9 * 0.5**steps], 1))
    left = remaining_decrease(objectives, torch.float64)
    np.testing.assert_allclose(left[:2], objectives[-1][:2] - 1, rtol=1e-6)
    assert left[2] == 0  # fewer than eight steps since the problem entered
    assert left[3] == pytest.approx(9 * 4)  # not a geometric series: at most nine times the last four steps
    assert left[4] > 0
    assert remaining_decrease(objectives, torch.float32)[4] == 0  # below the rounding of float32
    assert (remaining_decrease(objectives[:8], torch.float64) == 0).all()


def test_estimate_includes_the_trend_where_the_next_step_is_small():
    problems = BinaryProblems(torch.ones(4, 2), torch.ones(4, 2))
    objectives = [torch.tensor([1 + 0.9**step, 1.0]).double() for step in range(12)]
    index, gradient, gap_check_at = torch.arange(2), torch.tensor([[1e-3], [1e-3]]), torch.full((2,), 1e-2)
    iterates = Iterates(
        problems, index, gradient, torch.zeros(4, 2), gradient, objectives[-1], gap_check_at, index, objectives[:-1]
    )
    tolerance = Tolerance(1e-2)
    estimate, gap, unconverged = check_convergence(iterates, -gradient, hessian=None, tolerance=tolerance)
    assert estimate[0] >= 0.9**11 / objectives[-1][0]
    assert 0.5e-6 <= estimate[1] < 1e-5
    assert unconverged.tolist() == [True, False]
    assert gap.isinf().all()
    both = iterates.append(iterates.select(torch.tensor([0])))
    assert torch.equal(
        remaining_decrease(both.objectives, torch.float32)[:2], remaining_decrease(objectives, torch.float32)
    )
    after = [*both.objectives, 0.9 * both.objectives[-1]]
    assert remaining_decrease(after, torch.float32)[2] == 0  # its first objective was not a step of its own


def test_fresh_scores_find_problems_out_of_tolerance():
    generator = torch.Generator().manual_seed(8)
    features, problems = random_problems(40, generator)
    matrix = FeatureMatrix(FeatureRows(features), intercept_scaling=None)
    weights = 0.1 * torch.randn(3, 8, generator=generator).double()
    true = 0.5 * weights.square().sum(1) + squared_hinge_loss(problems, features @ weights.T)
    claimed, small = true * torch.tensor([1.0, 0.99, 1.0]).double(), torch.full((3,), 1e-9).double()
    solution = Solution(weights, claimed, small.clone(), small.clone(), torch.zeros(3))
    index = torch.arange(3)
    missed = _verify(matrix, problems, SampledHessian(matrix, sample_rows=40), solution, index, Tolerance(1e-6))
    np.testing.assert_allclose(solution.objective, true, rtol=1e-12)  # float64
    np.testing.assert_allclose(
        solution.error_estimate, [1e-9, 0.01, 1e-9], rtol=1e-6
    )  # the stored objective was 1 % too low
    assert missed.tolist() == [1]
    assert (solution.duality_gap > 1e-2).all()
    everything = _verify(
        matrix, problems, SampledHessian(matrix, sample_rows=40), solution, index, Tolerance(1e-6, gap=1e-2)
    )
    assert everything.tolist() == [0, 1, 2]


def test_recomputed_scores_correct_rounding(monkeypatch):
    features, labels = make_data()

    def rounded(*given, **settings):
        weights, scores = minimize_in_subspaces(*given, **settings)
        return weights, scores + 0.01 * scores.roll(1, 0)

    monkeypatch.setattr(fit_module, "FEW_ROWS", 1)
    monkeypatch.setattr(primal_module, "minimize_in_subspaces", rounded)
    monkeypatch.setattr(primal_module, "_RECOMPUTE_EVERY", 1)
    assert l2svm_path(features, labels, [1e-2])[0].error_estimate.max() <= 1e-6


def test_iterations_are_counted_from_the_entry_of_each_C(monkeypatch):
    monkeypatch.setattr(fit_module, "FEW_ROWS", 1)
    lines = []
    fits = l2svm_path(*make_data(), [1e-3, 1e-2, 1.0], progress=lines.append)
    last = len(lines) - 1
    assert lines[-1].startswith(f"step {last}: 0 problems left")
    assert 0 < fits[-1].n_iterations < last
    assert fits[0].n_iterations < last
    assert fits[0].n_passes >= 2 * last


def test_fastest_accurate_matrix_product_is_chosen(monkeypatch):
    def rounded(left, right):
        return (left.bfloat16() @ right.bfloat16().T).float()

    def missing(left, right):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(passes_module, "PRODUCTS", {**passes_module.PRODUCTS, "rounded": rounded, "missing": missing})
    passes_module._benchmark_products.cache_clear()
    chosen = passes_module.fastest_matrix_product(torch.device("cpu"))
    passes_module._benchmark_products.cache_clear()
    assert chosen.errors["rounded"] > 20 * chosen.errors["default"]  # bfloat16 has 16 bits less
    assert "missing" not in chosen.gflops
    assert chosen.name in ("default", "onednn")


@pytest.fixture(params=[1, 3])
def threads(request):
    """The number of torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("resident", [None, 0, 37])
def test_passes_equal_dense_products_for_all_chunks_and_threads(resident, threads, tmp_path, monkeypatch):
    features = np.random.default_rng(0).normal(size=(101, 12)).astype(np.float16)
    np.save(tmp_path / "features.npy", np.concatenate([features[:2], features]))
    monkeypatch.setattr(rows_module, "_CONVERTED_BYTES", 4 * 12 * 5)  # five rows
    monkeypatch.setattr(rows_module, "SLAB_BYTES", 2 * 12 * 17)  # 17 rows
    numbers = np.arange(1, 101)
    source = open_rows(
        np.load(tmp_path / "features.npy", mmap_mode="r")[2:],
        numbers,
        device=torch.device("cpu"),
        resident_rows=resident,
    )
    weights, coefficients = torch.randn(2, 13), torch.randn(100, 2)
    whole = np.concatenate([features[1:].astype(np.float64), np.full((100, 1), 0.5)], 1)
    matrix = FeatureMatrix(source, intercept_scaling=0.5)
    np.testing.assert_allclose(matrix.scores(weights), whole @ weights.double().numpy().T, atol=1e-5)  # float32
    np.testing.assert_allclose(
        matrix.weighted_rows(coefficients), coefficients.double().numpy().T @ whole, atol=2e-5
    )  # float32, sums of 100
    assert source.num_workers == threads
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("text, size", [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), (512, 512), ("2k", 2000)])
def test_parse_memory(text, size):
    assert parse_memory(text) == size


def test_subsets_of_the_same_rows_share_a_group(monkeypatch):
    monkeypatch.setattr(memory, "_LIBRARY_BYTES", 0)
    monkeypatch.setattr(memory, "SLAB_BYTES", 0)
    subsets = [np.arange(80), np.arange(80), np.arange(100, 180), np.arange(100, 180)]
    room = 4 * 80 * 60 + 8 * 5 * 80 * 80 + 80 * 120 + 2 * 8 * 9 * 60  # per thread, 80 rows, the weights of two subsets
    groups = memory.group_subsets(subsets, 60, 9, row_bytes=120, threads=1, memory=room)
    assert [[rows[0] for rows in group] for group in groups] == [[0, 0], [100, 100]]


def test_memory_plan_equals_a_hand_worked_example():
    def plan(memory):
        return plan_memory(100_000, 10_000, 70, 10, stored=torch.float16, memory=memory)

    # vectors 280 x (360,000 + 1,000,000) bytes, library 600 MB, three slabs of 64 MiB: 1,182.1 MB whatever the sample;
    # a sample of 4,579 rows: Gram matrix 83.9 MB, 70 factors of 2,060 rows 1,188.2 MB, its rows 91.6 MB
    assert plan(2_600_000_000) == MemoryPlan(
        pytest.approx(2_710, abs=5), 4579, 70
    )  # the rest of 54.2 MB in rows of 20 kB
    assert plan(1_300_000_000).sample_rows == 4579 // 4
    with pytest.raises(EvalkitError, match="need at least 1.28 GB"):  # 5.2 + 74.0 + 22.9 MB with 1,144 sampled rows
        plan(1_200_000_000)
    assert plan(None) == MemoryPlan(None, 4579, 100)


def test_groups_contain_all_classes_of_each_C():
    for classes, expected in ((7, 98), (150, 150)):
        assert plan_memory(1000, 10, 50 * classes, classes, stored=torch.float32, memory=None).group_size == expected


def test_least_memory_for_subsets_equals_a_hand_worked_value():
    # 600 MB + 4 slabs 268.4 + two threads' 114.7 and 40 + rows 57.3 + weights 16.1
    with pytest.raises(EvalkitError, match="subsets of 1000 x 28672 features need at least 1.25 GB"):
        memory.group_subsets([np.arange(1000)], 28_672, 70, row_bytes=57_344, threads=2, memory=10**9)


def make_data():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 500)
    labels[:200] %= 2  # the first process sees two classes of three
    return (generator.normal(size=(500, 60)) + 0.3 * generator.normal(size=(3, 60))[labels]).astype(np.float32), labels


def fit_share(rank, address, out):
    """Runs in a process of its own: the first takes 200 rows, the second 300; both solvers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    features, labels = make_data()
    share = slice(0, 200) if rank == 0 else slice(200, 500)
    settings = {"class_weight": "balanced", "distributed": True, "tol": 1e-7}
    objectives = []
    for fit_module.FEW_ROWS in (1, 4000):
        fits = l2svm_path(features[share], labels[share], [1e-2, 1.0], **settings)
        objectives.append([fit.objective for fit in fits])
    np.save(f"{out}-{rank}.npy", np.array(objectives))
    dist.destroy_process_group()


def test_two_processes_reach_the_optimum_of_one(tmp_path):
    processes.spawn(fit_share, args=(tmp_path / "store", tmp_path / "objective"), nprocs=2)
    first, second = (np.load(tmp_path / f"objective-{rank}.npy") for rank in (0, 1))
    np.testing.assert_array_equal(first, second)
    whole = np.stack([fit.objective for fit in l2svm_path(*make_data(), [1e-2, 1.0], class_weight="balanced")])
    for solver in first:
        np.testing.assert_allclose(solver, whole, rtol=1e-6)  # 10 x tol

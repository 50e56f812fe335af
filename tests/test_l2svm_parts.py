"""Parts of the solver: the line search against brute force, the choice of the matrix path, many processes."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from evalkit.errors import EvalkitError
from evalkit.runtime import Ranks
from evalkit.solver import fit as path
from evalkit.solver import l2svm_path, memory, preconditioner, rows
from evalkit.solver import passes as products
from evalkit.solver import primal as descent
from evalkit.solver import rows as filerows
from evalkit.solver.dual import Factors, kernel_gap, solve_kernel
from evalkit.solver.memory import Plan, parse_memory, plan_memory
from evalkit.solver.passes import FeatureMatrix
from evalkit.solver.preconditioner import SampledHessian
from evalkit.solver.primal import History, State, Tolerance, _verify, check_convergence, remaining_decrease
from evalkit.solver.problem import BinaryProblems, Solution, dual_variables, exact_steps, losses
from evalkit.solver.rows import Rows, open_rows
from evalkit.solver.subspace import minimise_in_spans


def test_line_search_finds_the_least_value_on_a_fine_grid():
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(50, 3, generator=generator).sign().double()
    columns = BinaryProblems(signs, torch.rand(50, 3, generator=generator).double())
    scores, change = torch.randn(2, 50, 3, generator=generator).double()
    change -= signs  # downhill or not, the three differ
    slope, curvature = torch.tensor([-0.5, 0.1, -2.0]).double(), torch.tensor([1.0, 0.2, 3.0]).double()
    grid = torch.linspace(0, 5, 2501).double()
    for way in (-1, 1):  # the second is uphill for some, where no step is best
        steps = exact_steps(columns, scores, way * change, slope=-way * slope, curvature=curvature)
        lines = [t * -way * slope + t * t * curvature / 2 + losses(columns, scores + t * way * change) for t in grid]
        np.testing.assert_allclose(steps, grid[torch.stack(lines).argmin(0)], atol=2e-3)  # the grid's spacing
    assert (steps < 1e-6).any()


def random_columns(count, generator):
    """Three columns: two of class 0 at different costs, one of class 1; features (count, 8), float64."""
    signs = torch.randn(count, 2, generator=generator).sign().double()[:, [0, 0, 1]]
    features = torch.randn(count, 8, generator=generator).double()
    return features, BinaryProblems(signs, torch.tensor([0.1, 1.0, 0.3]).double().expand(count, 3).contiguous())


def test_span_holds_no_better_point():
    generator = torch.Generator().manual_seed(1)
    features, columns = random_columns(40, generator)
    weights, directions = torch.randn(2, 3, 8, generator=generator).double()
    classes = torch.tensor([0, 0, 1])
    scores, changes = features @ weights.T, features @ directions.T

    def value(w):
        return 0.5 * w.square().sum(1) + losses(columns, features @ w.T)

    found, seen = weights, scores
    for _ in range(4):  # three Newton steps a call: on a piecewise quadratic the rest is exact
        found, seen = minimise_in_spans(
            columns, classes, weights=found, scores=seen, directions=directions, changes=changes, ranks=Ranks()
        )
    np.testing.assert_allclose(seen, features @ found.T, atol=1e-10)  # float64, kept by recurrence
    spans = [torch.cat([directions[:2], found[:2]]), torch.cat([directions[:2], found[:2]])]
    spans.append(torch.cat([directions[2:], found[2:]]))
    for column, span in enumerate(spans):
        for _ in range(50):
            aside = found.clone()
            aside[column] += 1e-3 * torch.randn(len(span), generator=generator).double() @ span
            assert value(aside)[column] >= value(found)[column] * (1 - 1e-9)  # the ridge leaves 1e-10


@pytest.mark.parametrize("C, dtype", [(1e-3, torch.float32), (100.0, torch.float64)])
def test_float32_factors_serve_where_the_ridge_is_large(C, dtype):
    generator = torch.Generator().manual_seed(3)
    features, columns = random_columns(60, generator)
    columns = BinaryProblems(columns.signs, torch.full_like(columns.costs, C))
    gram = features @ features.T * 100
    assert Factors(gram, columns, exact=False).gram.dtype == dtype
    exact, quick = (solve_kernel(gram, columns, tol=1e-6, exact=exact) for exact in (True, False))
    np.testing.assert_allclose(quick.scores, exact.scores, rtol=1e-4, atol=1e-5)  # a gap of 1e-9: its square root
    assert (kernel_gap(columns, quick.beta, gram @ quick.beta, gram) <= 1e-9 * losses(columns, exact.scores)).all()


def test_a_factor_serves_the_same_rows_at_the_same_costs(monkeypatch):
    generator = torch.Generator().manual_seed(9)
    features, columns = random_columns(60, generator)
    columns = BinaryProblems(columns.signs, torch.tensor([0.1, 0.1, 1.0]).double().expand(60, 3).contiguous())
    gram, vector, made = features @ features.T, torch.randn(60, generator=generator).double(), []
    original = torch.linalg.cholesky
    monkeypatch.setattr(torch.linalg, "cholesky", lambda matrix: (made.append(matrix), original(matrix))[1])
    factors = Factors(gram, columns, exact=True)
    for column, size, count in ((0, 60, 1), (1, 60, 1), (2, 60, 2), (0, 60, 2), (0, 50, 3), (0, 50, 3)):
        found = factors.solve(column, torch.arange(size), vector[:size])
        exact = gram[:size, :size] + torch.eye(size).double() * 0.5 / columns.costs[0, column]
        np.testing.assert_allclose(found, torch.linalg.solve(exact, vector[:size]), rtol=1e-9)  # float64
        assert len(made) == count


def test_kernel_gap_is_primal_minus_dual():
    generator = torch.Generator().manual_seed(7)
    features, columns = random_columns(30, generator)
    costs = columns.costs.clone()
    costs[::5] = 0
    columns, gram = BinaryProblems(columns.signs, costs), features @ features.T
    beta = columns.signs * (torch.rand(30, 3, generator=generator).double() - 0.2)
    weights, alpha = features.T @ beta, (columns.signs * beta).clamp(min=0) * (costs > 0)
    primal = 0.5 * weights.square().sum(0) + losses(columns, gram @ beta)
    spent = torch.where(costs > 0, alpha * alpha / (4 * costs), 0)
    dual = (alpha - spent).sum(0) - 0.5 * (features.T @ (columns.signs * alpha)).square().sum(0)
    assert ((1 - columns.signs * (gram @ beta) < 0) & (alpha > 0)).any(0).all()
    np.testing.assert_allclose(kernel_gap(columns, beta, gram @ beta, gram), primal - dual, rtol=1e-9)  # float64


def test_sampled_gap_is_a_bound_and_tighter_than_the_plain_one():
    generator = torch.Generator().manual_seed(2)
    features, columns = random_columns(400, generator)
    features[:, 0] += 30  # a large eigenvalue, which half the squared gradient overrates
    passes = FeatureMatrix(Rows(features), constant=None)
    hessian = SampledHessian(passes, size=100)
    weights = torch.zeros(3, 8).double()
    for _ in range(60):  # Newton's method with exact Hessians, to the optimum
        scores = features @ weights.T
        gradient = weights - dual_variables(columns, scores).mul(columns.signs).T @ features
        active = (1 - columns.signs * scores > 0) * columns.costs
        matrix = torch.eye(8).double() + 2 * torch.einsum("nk,nd,ne->kde", active, features, features)
        weights = weights - 0.5 * torch.linalg.solve(matrix, gradient)
    best = 0.5 * weights.square().sum(1) + losses(columns, features @ weights.T)
    for size in (1e0, 1e-1, 1e-2, 1e-4):
        near = weights + size * torch.randn(3, 8, generator=generator).double()
        scores = features @ near.T
        gradient = near - dual_variables(columns, scores).mul(columns.signs).T @ features
        error = 0.5 * near.square().sum(1) + losses(columns, scores) - best
        gap, plain = hessian.gap(columns, scores, gradient), 0.5 * gradient.square().sum(1)
        assert (gap >= error * (1 - 1e-6)).all()  # best is known to 1e-9 of error
        assert (gap < 0.1 * plain).all() or size > 1e-2
    whole = SampledHessian(passes, size=400).gap(columns, scores, gradient)
    np.testing.assert_allclose(whole, error, rtol=1e-3)  # the best dual point, where no row is about to change sides


@pytest.mark.parametrize("shift", [0, 6])  # with 6 the best change of 20 rows' alpha, cut at 0, is worse than none
def test_sampled_gap_is_a_bound_where_many_rows_are_to_lose_their_loss(shift):
    generator = torch.Generator().manual_seed(8)
    features = torch.randn(100, 8, generator=generator).double()
    signs = torch.randn(100, 1, generator=generator).double() if shift else features[:, :1]
    columns = BinaryProblems(signs.sign(), torch.ones(100, 1).double())
    features[:, 0] += shift
    optimum = solve_kernel(features @ features.T, columns, tol=1e-6)
    best = 0.5 * (optimum.beta * optimum.scores).sum(0) + losses(columns, optimum.scores)
    nowhere = torch.zeros(100, 1).double()
    gradient = -dual_variables(columns, nowhere).mul(columns.signs).T @ features
    for size in (100, 20):
        gap = SampledHessian(FeatureMatrix(Rows(features), constant=None), size=size).gap(columns, nowhere, gradient)
        error = (losses(columns, nowhere) - best) * (1 - 1e-9)  # float64
        assert error <= gap <= 0.5 * gradient.square().sum(1)


@pytest.mark.parametrize("width", [8, 60])
def test_sampled_hessian_is_inverted(width):
    generator = torch.Generator().manual_seed(4)
    features, vectors = (torch.randn(rows, width, generator=generator).double() for rows in (80, 5))
    signs, scores = torch.randn(2, 80, 1, generator=generator).double().expand(2, 80, 5)
    costs = torch.rand(80, 5, generator=generator).double() + 0.1
    costs[::7] = 0
    costs[:40, 2] = 0.5
    costs[:, 3:] = torch.tensor([0.5, 0.6])  # all equal, as without weights: these may share factors, but not here
    columns = BinaryProblems(signs.sign(), costs)
    hessian = SampledHessian(FeatureMatrix(Rows(features), constant=None), size=40)
    sample = features[hessian.index]
    tail = torch.linalg.eigvalsh(sample @ sample.T).clamp(min=0).median()  # 0 where rows are more than features

    def check(scores):
        for column, found in enumerate(hessian.inverse(vectors)):
            active = ((1 - columns.signs * scores > 0) & (costs > 0))[hessian.index, column]
            weights = 2 * (80 / 40) * costs[hessian.index, column][active]
            tau = (weights.mean() * tail).clamp(min=1)
            exact = tau * torch.eye(width) + sample[active].T @ (weights[:, None] * sample[active])
            want = torch.linalg.solve(exact, vectors[column])
            np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-9)  # condition of exact

    hessian.start(columns, scores)
    check(scores)
    before, moved = hessian.inverse(vectors), scores.clone()
    moved[hessian.index[0]] *= -100
    hessian.follow(moved)
    np.testing.assert_array_equal(hessian.inverse(vectors), before)  # one active row more or less needs no factor
    hessian.follow(-scores)
    check(-scores)


def test_tail_is_the_median_of_the_whole_sample(monkeypatch):
    monkeypatch.setattr(preconditioner, "_SPECTRUM_ROWS", 50)
    hessian = SampledHessian(FeatureMatrix(Rows(torch.arange(1.0, 101).diag()), constant=None), size=100)
    assert 49**2 <= hessian.tail <= 52**2  # eigenvalues 1, 4, 9, ... 10,000


def test_history_is_bfgs_with_the_last_ten_pairs():
    generator = torch.Generator().manual_seed(6)
    history, dense = History(), [0.5 * torch.eye(6).double() for _ in range(3)]
    for number in range(12):
        step, noise = torch.randn(2, 3, 6, generator=generator).double()
        change = 2 * step + 0.3 * noise
        change[1] *= -1 if number == 5 else 1  # curvature that is negative by rounding: no pair
        history.add(step, change)
        for column in range(3) if number >= 2 else ():
            s, y = step[column], change[column]
            if s @ y > 0:
                left = torch.eye(6) - torch.outer(s, y) / (s @ y)
                dense[column] = left @ dense[column] @ left.T + torch.outer(s, s) / (s @ y)
    history.keep(torch.tensor([0, 1]))
    history.join(1)
    vectors = torch.randn(3, 6, generator=generator).double()
    found = history.inverse(vectors, lambda vector: 0.5 * vector)
    want = torch.stack([dense[0] @ vectors[0], dense[1] @ vectors[1], 0.5 * vectors[2]])  # the last one is new
    np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-12)


def test_what_a_geometric_series_has_still_to_fall():
    steps = torch.arange(12).double()
    kinds = [1 + 0.5**steps, 1 + 0.8**steps, torch.where(steps < 6, torch.nan, 1 + 0.5**steps), 12 - steps]
    trend = list(torch.stack([*kinds, 1 + 1e-9 * 0.5**steps], 1))
    left = remaining_decrease(trend, torch.float64)
    np.testing.assert_allclose(left[:2], trend[-1][:2] - 1, rtol=1e-6)
    assert left[2] == 0  # fewer than eight steps since the column entered
    assert left[3] == pytest.approx(9 * 4)  # no series: at most nine times the last four steps
    assert left[4] > 0 and remaining_decrease(trend, torch.float32)[4] == 0  # float32's rounding
    assert (remaining_decrease(trend, torch.float64)[:2] > 0).all() and (
        remaining_decrease(trend[:8], torch.float64) == 0
    ).all()


def test_estimate_sees_the_trend_where_the_next_step_is_small():
    columns = BinaryProblems(torch.ones(4, 2), torch.ones(4, 2))
    trend = [torch.tensor([1 + 0.9**step, 1.0]).double() for step in range(12)]
    number, gradient, wanted = torch.arange(2), torch.tensor([[1e-3], [1e-3]]), torch.full((2,), 1e-2)
    state = State(columns, number, gradient, torch.zeros(4, 2), gradient, trend[-1], wanted, number, trend[:-1])
    goal = Tolerance(1e-2)
    estimate, gap, far = check_convergence(state, -gradient, hessian=None, goal=goal)
    assert estimate[0] >= 0.9**11 / trend[-1][0] and 0.5e-6 <= estimate[1] < 1e-5
    assert far.tolist() == [True, False] and gap.isinf().all()
    both = state.join(state.keep(torch.tensor([0])))
    assert torch.equal(remaining_decrease(both.trend, torch.float32)[:2], remaining_decrease(trend, torch.float32))
    after = [*both.trend, 0.9 * both.trend[-1]]
    assert remaining_decrease(after, torch.float32)[2] == 0  # what it enters with was no step of its own


def test_fresh_scores_judge_what_a_descent_left():
    generator = torch.Generator().manual_seed(8)
    features, columns = random_columns(40, generator)
    passes = FeatureMatrix(Rows(features), constant=None)
    weights = 0.1 * torch.randn(3, 8, generator=generator).double()
    true = 0.5 * weights.square().sum(1) + losses(columns, features @ weights.T)
    claimed, small = true * torch.tensor([1.0, 0.99, 1.0]).double(), torch.full((3,), 1e-9).double()
    done = Solution(weights, claimed, small.clone(), small.clone(), torch.zeros(3))
    number = torch.arange(3)
    missed = _verify(passes, columns, SampledHessian(passes, size=40), done, number, Tolerance(1e-6))
    np.testing.assert_allclose(done.objective, true, rtol=1e-12)  # float64
    np.testing.assert_allclose(done.error_estimate, [1e-9, 0.01, 1e-9], rtol=1e-6)  # its claim was 1 % too low
    assert missed.tolist() == [1] and (done.duality_gap > 1e-2).all()
    everything = _verify(passes, columns, SampledHessian(passes, size=40), done, number, Tolerance(1e-6, gap=1e-2))
    assert everything.tolist() == [0, 1, 2]


def test_rounding_of_recurred_scores_is_mended(monkeypatch):
    features, labels = make_data()

    def rounded(*given, **settings):
        weights, scores = minimise_in_spans(*given, **settings)
        return weights, scores + 0.01 * scores.roll(1, 0)

    monkeypatch.setattr(path, "FEW_ROWS", 1)
    monkeypatch.setattr(descent, "minimise_in_spans", rounded)
    monkeypatch.setattr(descent, "_REFRESH", 1)
    assert l2svm_path(features, labels, [1e-2])[0].error_estimate.max() <= 1e-6


def test_steps_are_counted_from_where_a_C_enters(monkeypatch):
    monkeypatch.setattr(path, "FEW_ROWS", 1)
    lines = []
    fits = l2svm_path(*make_data(), [1e-3, 1e-2, 1.0], progress=lines.append)
    last = len(lines) - 1
    assert lines[-1].startswith(f"step {last}: 0 problems left")
    assert 0 < fits[-1].n_iterations < last and fits[0].n_iterations < last and fits[0].n_passes >= 2 * last


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


@pytest.fixture(params=[1, 3])
def threads(request):
    """As many threads of torch as the parameter says."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("resident", [None, 0, 37])
def test_passes_are_products_whatever_the_chunks_and_threads(resident, threads, tmp_path, monkeypatch):
    features = np.random.default_rng(0).normal(size=(101, 12)).astype(np.float16)
    np.save(tmp_path / "features.npy", np.concatenate([features[:2], features]))
    monkeypatch.setattr(rows, "_CONVERTED_BYTES", 4 * 12 * 5)  # five rows
    monkeypatch.setattr(filerows, "SLAB_BYTES", 2 * 12 * 17)  # 17 rows
    numbers = np.arange(1, 101)
    source = open_rows(
        np.load(tmp_path / "features.npy", mmap_mode="r")[2:], numbers, device=torch.device("cpu"), resident=resident
    )
    weights, coefficients = torch.randn(2, 13), torch.randn(100, 2)
    whole = np.concatenate([features[1:].astype(np.float64), np.full((100, 1), 0.5)], 1)
    passes = FeatureMatrix(source, constant=0.5)
    np.testing.assert_allclose(passes.scores(weights), whole @ weights.double().numpy().T, atol=1e-5)  # float32
    np.testing.assert_allclose(
        passes.weighted_rows(coefficients), coefficients.double().numpy().T @ whole, atol=2e-5
    )  # float32, sums of 100
    assert source.workers == threads == torch.get_num_threads()


@pytest.mark.parametrize("text, size", [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), (512, 512), ("2k", 2000)])
def test_parse_memory(text, size):
    assert parse_memory(text) == size


def test_draws_of_the_same_rows_share_a_group(monkeypatch):
    monkeypatch.setattr(memory, "_LIBRARY_BYTES", 0)
    monkeypatch.setattr(memory, "SLAB_BYTES", 0)
    draws = [np.arange(80), np.arange(80), np.arange(100, 180), np.arange(100, 180)]
    room = 4 * 80 * 60 + 8 * 5 * 80 * 80 + 80 * 120 + 2 * 8 * 9 * 60  # a thread's, 80 rows, the weights of two draws
    groups = memory.group_subsets(draws, 60, 9, row_bytes=120, threads=1, memory=room)
    assert [[rows[0] for rows in group] for group in groups] == [[0, 0], [100, 100]]


def test_plan_of_a_hand_worked_problem():
    def plan(memory):
        return plan_memory(100_000, 10_000, 70, 10, stored=torch.float16, memory=memory)

    # vectors 280 x (360,000 + 1,000,000) bytes, library 600 MB, three slabs of 64 MiB: 1,182.1 MB whatever the sample;
    # a sample of 4,579 rows: Gram matrix 83.9 MB, 70 factors of 2,060 rows 1,188.2 MB, its rows 91.6 MB
    assert plan(2_600_000_000) == Plan(pytest.approx(2_710, abs=5), 4579, 70)  # the rest of 54.2 MB in rows of 20 kB
    assert plan(1_300_000_000).sample == 4579 // 4
    with pytest.raises(EvalkitError, match="need at least 1.28 GB"):  # 5.2 + 74.0 + 22.9 MB with 1,144 sampled rows
        plan(1_200_000_000)
    assert plan(None) == Plan(None, 4579, 100)


def test_groups_hold_whole_sets_of_classes():
    for classes, columns in ((7, 98), (150, 150)):
        assert plan_memory(1000, 10, 50 * classes, classes, stored=torch.float32, memory=None).group == columns


def test_least_memory_for_draws_is_hand_worked():
    # 600 MB + 4 slabs 268.4 + two threads' 114.7 and 40 + rows 57.3 + weights 16.1
    with pytest.raises(EvalkitError, match="draws of 1000 x 28672 features need at least 1.25 GB"):
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

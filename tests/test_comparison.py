"""compare and curve: against scipy and by hand, on the command line, and what cannot be paired."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evalkit.errors import EvalkitError
from evalkit.evaluation.comparison import compare_predictions, mcnemar, paired_t_test
from evalkit.evaluation.label_curve import parse_labels
from evalkit.results import read_results

FEW = ("--protocol", "striped:5", "--num-test-subsets", 4, "--num-selection-subsets", 2, "--device", "cpu")


def test_reference_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(0.7, 0.02, 8), random.normal(0.68, 0.02, 8)
    comparison, expected = paired_t_test(a, b), stats.ttest_rel(a, b)
    assert comparison.p_value == pytest.approx(expected.pvalue)
    assert comparison.pairs == 8
    assert comparison.difference == pytest.approx(100 * (a.mean() - b.mean()))
    assert (comparison.low, comparison.high) == pytest.approx(
        tuple(100 * end for end in expected.confidence_interval(0.95))
    )


@pytest.mark.parametrize(("shift", "p_value"), [(0.0, 1.0), (0.25, 0.0)])
def test_fits_that_differ_by_a_constant(shift, p_value):
    comparison = paired_t_test(np.array([0.5, 0.25]) + shift, np.array([0.5, 0.25]))
    assert (comparison.difference, comparison.p_value) == (100 * shift, p_value)


def test_value_of_mcnemar():
    """Of 20 images A alone gets 6 right, B alone 1: p = 2 (C(7,0) + C(7,1)) / 2^7 = 0.125."""
    a = np.array([True] * 6 + [False] + [True] * 9 + [False] * 4)
    b = np.array([False] * 6 + [True] + [True] * 9 + [False] * 4)
    comparison = mcnemar(a, b)
    assert (comparison.p_value, comparison.pairs) == (pytest.approx(0.125), 7)
    assert comparison.difference == pytest.approx(25)
    half = 196 * np.sqrt(np.var(a.astype(float) - b) / 20)
    assert (comparison.low, comparison.high) == pytest.approx((25 - half, 25 + half))
    assert mcnemar(a, a).p_value == 1
    assert mcnemar(b, a).difference == pytest.approx(-25)


@pytest.mark.parametrize(
    ("fits", "label_subsets", "message"),
    [
        ((2, 1), ("d", "d"), "A has 2 fits, B 1: nothing to pair; measure one with the other's --label-subsets"),
        ((2, 2), ("d", "e"), "A and B were fitted on different label subsets: nothing to pair"),
        ((2, 2), ("", ""), "A and B were fitted on different label subsets: nothing to pair"),
    ],
)
def test_results_that_cannot_be_paired_are_refused(fits, label_subsets, message):
    a, b = (np.zeros((count, 3), int) for count in fits)
    with pytest.raises(EvalkitError, match=message):
        compare_predictions(a, b, np.zeros(3, int), label_subsets=label_subsets)


def test_compare_on_the_command_line(run, home):
    for encoder in ("pixels", "random:digits"):
        run("extract", "--dataset", "striped", "--encoder", encoder, "--device", "cpu")
        assert run("svm", *FEW).exit_code == 0
        assert run("svm", "--device", "cpu").exit_code == 0
    rows = read_results(home / "results.csv").set_index(["protocol", "encoder"])
    cards, values = rows["card"], rows["value"]
    result = run("compare", cards["5", "pixels"], cards["5", "random:digits"])
    assert "paired t-test over label subsets: p = " in result.stdout
    assert "4 pairs" in result.stdout
    assert "A: pixels + L2-SVM; striped, labels per class: 5\n" in result.stdout
    difference = float(re.search(r"A - B: ([-+.\d]+) points", result.stdout)[1])
    assert difference == pytest.approx(values["5", "pixels"] - values["5", "random:digits"], abs=0.02)  # rounded values
    single = run("compare", home / f"cards/{cards['all', 'pixels']}.json", cards["all", "random:digits"][:6])
    assert "McNemar's exact test over 60 test images: p = " in single.stdout
    assert "has 4 fits" in run("compare", cards["5", "pixels"], cards["all", "pixels"]).stderr
    assert "0 run cards of that name beside" in run("compare", "nothing", cards["all", "pixels"]).stderr


def test_the_curve_has_a_result_per_number_of_labels_and_measures_each_once(run, home):
    run("extract", "--dataset", "striped", "--encoder", "pixels")
    options = ("--labels", "2,5,all", "--num-test-subsets", 3, "--num-selection-subsets", 2, "--device", "cpu")
    first = run("curve", *options)
    assert first.exit_code == 0 and first.stdout.count("\n") == 3, first.output
    table = pd.read_csv(home / "curves/striped--pixels.csv")
    assert table["n_train"].tolist() == [6, 15, 120]
    assert table["n"].tolist() == [3, 3, 1]
    assert table["protocol"].tolist() == ["2", "5", "all"]
    assert (home / "curves/striped--pixels.png").read_bytes().startswith(b"\x89PNG")
    again = run("curve", *options)
    assert again.stderr.count("already measured") == 3
    assert pd.read_csv(home / "curves/striped--pixels.csv")["value"].tolist() == table["value"].tolist()
    default = run(
        "curve", "--num-test-subsets", 2, "--num-selection-subsets", 1, "--device", "cpu", "--out", home / "mine"
    )
    assert pd.read_csv(home / "mine.csv")["protocol"].tolist() == ["1", "2", "5", "10", "20", "all"], default.output


def test_labels_of_a_curve_are_numbers_or_all():
    assert parse_labels("1, 10,all") == [1, 10, None]
    for wrong in ("1,many", "0", ""):
        with pytest.raises(EvalkitError, match="is not a number of labels; expected, say, 1,10,100,all"):
            parse_labels(wrong)

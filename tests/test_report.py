"""results.csv and its comparison with the published rows: golden text, round trip, refusals, verdicts by value."""

import dataclasses

import pandas as pd
import pytest
from example_results import FEW as EXAMPLE_FEW
from example_results import RESULT as EXAMPLE

import evalkit
from evalkit.errors import ArtifactError
from evalkit.report.tables import blocks, compare_with_published, published_results, report_text
from evalkit.results import COLUMNS, add_result, method_name, read_results

RESULT = dataclasses.replace(
    EXAMPLE,
    dataset="cifar10",
    value=82.5,
    C=1e-4,
    device="CPU",
    hyperparameter="C = 0.0001",
    interval_low=81.74,
    interval_high=83.23,
    card="mine",
)

GOLDEN_RESULTS = (
    ",".join(COLUMNS)
    + """
cifar10,imagenet32@150000,28672,400,accuracy_percent,73.25,0.50,1.96 std over label subsets,10,0.0001,\
extended 1e-05..0.01,82.10,4000,10000,10000,3.2e-07,1.0e-08,abc,def,0,12.3,CPU,evalkit 0,2026-01-02,L2-SVM,,,\
C = 0.0001,\
validation,0.250,73.10,73.40,95% t interval of the mean,d1,mine
cifar10,imagenet32@150000,28672,all,accuracy_percent,82.50,0.75,95% binomial interval over test images,1,0.0001,\
extended 1e-05..0.01,82.10,50000,10000,10000,3.2e-07,1.0e-08,abc,def,0,12.3,CPU,evalkit 0,2026-01-02,L2-SVM,,,\
C = 0.0001,validation,,81.74,83.23,95% bootstrap interval over test images,d1,mine
"""
)

FEW = dataclasses.replace(
    RESULT, **EXAMPLE_FEW | {"value": 73.25, "n": 10, "interval_low": 73.1, "interval_high": 73.4}
)


def test_golden_results_and_round_trip(tmp_path):
    path = tmp_path / "results.csv"
    add_result(path, RESULT)
    add_result(path, FEW)
    assert path.read_text() == GOLDEN_RESULTS
    add_result(path, FEW)  # reading and writing again changes nothing, and the same result takes its own place
    assert path.read_text() == GOLDEN_RESULTS


def test_a_result_measured_again_replaces_its_row_and_others_stay(tmp_path):
    path = tmp_path / "results.csv"
    add_result(path, RESULT)
    add_result(path, dataclasses.replace(RESULT, value=80.0))
    add_result(path, dataclasses.replace(RESULT, value=70.0, features_sha256="other"))
    assert sorted(read_results(path)["value"]) == [70.0, 80.0]


def test_results_on_other_label_subsets_are_kept_and_more_fits_come_later(tmp_path):
    path = tmp_path / "results.csv"
    for n, grid in ((100, "extended 1e-05..0.01"), (10, "extended 2e-05..0.01")):
        add_result(path, dataclasses.replace(FEW, n=n, search_range=grid, label_subsets_sha256=f"of {n}"))
    assert read_results(path)["n"].tolist() == [10, 100]
    add_result(path, dataclasses.replace(FEW, value=1.0, n=100, label_subsets_sha256="of 100"))
    assert read_results(path)["value"].tolist() == [73.25, 1.0]


def test_tables_are_ordered_by_labels_per_class(tmp_path):
    for protocol in ("all", "100", "5", "1", "20"):
        add_result(tmp_path / "results.csv", dataclasses.replace(FEW, dataset="mine", protocol=protocol))
    titles = [block.title for block in blocks(compare_with_published(read_results(tmp_path / "results.csv")))]
    words = ["1 label per class", "5 labels per class", "20 labels per class", "100 labels per class", "all labels"]
    assert titles == [f"mine, {word}: accuracy in %" for word in words]


def test_text_for_a_terminal(tmp_path):
    add_result(tmp_path / "results.csv", RESULT)
    text = report_text(compare_with_published(read_results(tmp_path / "results.csv")))
    assert text.startswith("cifar10, all labels: accuracy in %\n")
    assert "82.80                   published\n" in text
    assert "82.50 ± 0.75 (a)        measured, n = 1   -0.30  within the uncertainty\n" in text
    assert text.endswith("\n  (a: ± 95% binomial interval over test images)\n")


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"value": 82.0}, "outside the uncertainty"),
        ({"value": 83.5}, "within the uncertainty"),
        ({"dataset": "cifar10-gray"}, "other images than the published"),
        ({"dataset": "cifar10-part"}, "within the uncertainty"),  # a part gets a verdict like the whole
        ({"protocol": "400", "value": 74.9}, "within the uncertainty"),  # 0.75 of ours and 0.4 of the paper's
        ({"protocol": "400", "value": 75.0}, "outside the uncertainty"),
        ({"dataset": "digits"}, ""),
        (
            {"encoder": "kmeans:mine-1600", "value": 80.5},
            "within the uncertainty",
        ),  # of the published K-means row, 80.6
    ],
)
def test_value_of_verdicts(tmp_path, change, verdict):
    add_result(tmp_path / "results.csv", dataclasses.replace(RESULT, **change))
    table = compare_with_published(read_results(tmp_path / "results.csv"))
    assert table["verdict"].iloc[-1] == verdict


def test_pinned_published_rows():
    table = published_results().set_index(["table", "protocol", "method"])["value"]
    assert len(table) == 26
    assert table.index.is_unique
    assert table[1, "all", "DCGAN + L2-SVM"] == 82.8
    assert table[1, "400", "DCGAN + L2-SVM"] == 73.8
    assert table[2, "100", "DCGAN + L2-SVM"] == 22.48
    assert table[2, "100", "KNN"] == 77.93
    assert table[3, "1-nn on 50K samples", "DCGAN"] == 2.98
    assert table[3, "1-nn on 10M samples", "DCGAN"] == 1.48
    assert published_results().groupby("table")["section"].unique().map(list).tolist() == [["5.1"], ["5.2"], ["8.1"]]


def test_rows_of_an_older_file_get_the_defaults_of_later_columns(tmp_path):
    path = tmp_path / "results.csv"
    add_result(path, RESULT)
    older = [line.split(",")[: COLUMNS.index("classifier")] for line in path.read_text().splitlines()]
    path.write_text("\n".join(map(",".join, older)) + "\n")
    row = read_results(path).iloc[0]
    assert (row["classifier"], row["select_on"], row["card"], row["value"]) == ("L2-SVM", "validation", "", 82.5)
    add_result(path, RESULT)
    assert path.read_text().count("\n") == 2  # measured again, it takes the older row's place


def test_method_names_include_what_is_not_the_default():
    row = pd.Series(dataclasses.asdict(dataclasses.replace(RESULT, layers="conv3", scaling="standardised")))
    assert method_name(row) == "imagenet32@150000 + L2-SVM (conv3, standardised)"
    row["select_on"], row["search_range"], row["layers"] = "test", "release 0.0001..0.01", ""
    assert method_name(row) == "imagenet32@150000 + L2-SVM (standardised, release C grid, C selected on test)"
    row["search_range"] = "extended (upper end best) 0.0001..10"
    assert "at the end of its search" in method_name(row)


def test_a_file_with_other_columns_is_refused(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("dataset,accuracy\ncifar10,1\n")
    with pytest.raises(ArtifactError, match="not a results.csv of this evalkit .columns that differ: C, accuracy"):
        read_results(path)


def test_comparison_of_a_part_is_marked_with_its_counts(tmp_path):
    part = dataclasses.replace(RESULT, dataset="svhn-part", protocol="100", metric="error_percent", n_train=1000)
    add_result(tmp_path / "results.csv", part)
    table = evalkit.compare_with_published(tmp_path / "results.csv")
    assert table["images"].tolist() == ["original"] * 9 + ["part"]
    text = evalkit.report_text(table)
    assert text.startswith("svhn-part (part of svhn), 100 labels per class")
    assert "82.50 ± 0.75 (a) part" in text
    assert "(part: measured on a part of svhn, fitted on 1,000 and tested on 10,000 images" in text

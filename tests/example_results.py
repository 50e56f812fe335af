"""A small results.csv with run cards, the same bytes every time: the report's golden files are made from it.

`make golden` regenerates the golden files; read their diff before you commit it.
"""

import dataclasses
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

from evalkit.report.data import gather_report_data
from evalkit.report.render import FORMATS, render
from evalkit.results import Result, add_result, write_card
from evalkit.workspace import Workspace

GOLDEN = Path(__file__).parent / "golden"

CLASSES = ["airplane", "cat_&_dog", "ship"]
RESULT = Result(
    dataset="cifar10-part",
    encoder="imagenet32@150000",
    num_features=28672,
    protocol="all",
    metric="accuracy_percent",
    value=0.0,
    uncertainty=0.75,
    uncertainty_type="95% binomial interval over test images",
    n=1,
    C=2e-4,
    search_range="extended 1e-05..0.01",
    validation_percent=82.1,
    n_train=50000,
    n_validation=10000,
    n_test=10000,
    duality_gap=3.21e-7,
    error_estimate=1e-8,
    weights_sha256="abc",
    features_sha256="def",
    seed=0,
    seconds=12.345,
    device="CPU, 2 threads",
    versions="evalkit 0",
    date="2026-01-02",
    hyperparameter="C = 0.0002",
    interval_low=60.0,
    interval_high=70.0,
    interval_type="95% bootstrap interval over test images",
    label_subsets_sha256="d1",
)
FEW = {"protocol": "400", "uncertainty": 0.5, "uncertainty_type": "1.96 std over label subsets", "n": 2,
       "n_train": 4000, "std": 0.25,
       "interval_type": "95% t interval of the mean"}  # fmt: skip
TRAINING = {
    "recipe": {"name": "imagenet32", "lr": 0.0001},
    "d_updates": 800,
    "images": "tiny-imagenet",
    "num_images": 100_000,
    "classes": 200,
    "precision": "bfloat16",
}


def add_example(results, *, right=20, trained=True, **changes):
    """Adds a result with `right` of 30 predictions right, and its card; returns its row."""
    result = dataclasses.replace(RESULT, **changes)
    labels = np.arange(30) % 3
    predictions = np.stack([np.where(np.arange(30) < right, labels, (labels + 1 + fit) % 3) for fit in range(result.n)])
    result = dataclasses.replace(result, value=100 * float((predictions == labels).mean()))
    row = {key: value for key, value in dataclasses.asdict(result).items() if key != "card" and value == value}
    content = {
        "result": row,
        "protocol": {
            "labels_per_class": 400 if result.protocol == "400" else None,
            "num_selection_subsets": 3,
            "num_test_subsets": 2,
        },
        "validation_curve": [[1e-4, 81.0], [2e-4, 82.1], [5e-4, 80.5]],
        "class_names": CLASSES,
        "training": TRAINING if trained else {},
    }
    card = write_card(results, content, predictions=predictions, labels=labels)
    result = dataclasses.replace(result, card=card)
    add_result(results, result)
    return result


def write_example(results):
    """Results for two tables on a part of CIFAR-10 and one on SVHN: two checkpoints, a layer, pixels, errors."""
    add_example(results)
    add_example(results, encoder="imagenet32@75000", right=18, features_sha256="half")
    add_example(results, layers="conv1..conv4", right=17)
    add_example(results, encoder="pixels", right=12, features_sha256="p", weights_sha256="", trained=False)
    add_example(results, right=15, **FEW)
    add_example(results, encoder="pixels", right=10, features_sha256="p", select_on="test", trained=False, **FEW)
    add_example(results, dataset="svhn", metric="error_percent", trained=False, **(FEW | {"protocol": "100"}))
    without = dataclasses.replace(RESULT, encoder="random:imagenet32", value=65.0, features_sha256="r")
    add_result(results, without)


def write_all_formats(folder):
    """The example's report in every format, in `folder`; the page without plots: matplotlib's versions differ."""
    write_example(folder / "results.csv")
    report = gather_report_data(folder / "results.csv", Workspace(folder))
    for suffix in FORMATS:
        render(report, folder / f"report{suffix}")
    page = folder / "report.html"
    page.write_text(re.sub(r"<svg .*?</svg>", "<svg/>", page.read_text(), flags=re.S))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_all_formats(Path(folder))
        GOLDEN.mkdir(exist_ok=True)
        for path in sorted(Path(folder).glob("report.*")):
            (GOLDEN / path.name).write_bytes(path.read_bytes())
            print(GOLDEN / path.name, file=sys.stderr)

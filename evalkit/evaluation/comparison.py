"""compare: do two results differ? Their predictions are paired, as run cards or `evaluate` hold them.

Fits on the same label subsets are paired by Student's t-test, single fits on the same test images by McNemar's test.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import Evaluation
from evalkit.evaluation.labels import check_labels
from evalkit.results import card_path, method_name, read_card, read_predictions
from evalkit.workspace import Workspace


@dataclass(frozen=True)
class Comparison:
    """The accuracy of A minus that of B.

    Attributes:
        test: name of the statistical test, with what was paired.
        difference: of accuracies, in percent points.
        low, high: its 95 % interval, in percent points.
        interval_type: name of the interval.
        p_value: two-sided, of no difference.
        pairs: number of fits, or of test images that only one of the two classifies correctly.
        names: what A and B are: method, data set and protocol.
    """

    test: str
    difference: float
    low: float
    high: float
    interval_type: str
    p_value: float
    pairs: int
    names: tuple[str, str] = ("A", "B")


@dataclass(frozen=True)
class _Predictions:
    """One side of a comparison: predictions (fits, test rows), their labels (test rows,), and where they are from."""

    name: str
    title: str
    predictions: np.ndarray
    labels: np.ndarray
    labels_sha256: str
    label_subsets_sha256: str
    source: str  # encoder and data set


def compare(
    a: Evaluation | str,
    b: Evaluation | str,
    *,
    home: Workspace | Path | str | None = None,
    results: Path | str | None = None,
) -> Comparison:
    """Tests whether two results differ.

    Args:
        a, b: what `evaluate` returned, or run cards: by the start of a card's name, or by its path.
        home: the workspace whose cards are meant, or its folder.
        results: the results.csv whose cards are meant, instead of the workspace's.

    Raises:
        EvalkitError: no such card, or results that cannot be paired.
    """
    path = Path(results) if results is not None else Workspace(Path(".")).results
    if results is None and home is not None:
        path = Workspace.of(home).results
    one = _of_evaluation(a, "A") if isinstance(a, Evaluation) else _of_card(path, a)
    other = _of_evaluation(b, "B") if isinstance(b, Evaluation) else _of_card(path, b)
    if one.labels_sha256 != other.labels_sha256 or not np.array_equal(one.labels, other.labels):
        raise EvalkitError(f"{one.source} and {other.source}: different test images, nothing to pair")
    comparison = compare_predictions(
        one.predictions,
        other.predictions,
        one.labels,
        label_subsets=(one.label_subsets_sha256, other.label_subsets_sha256),
        names=(one.name, other.name),
    )
    return replace(comparison, names=(one.title, other.title))


def _of_evaluation(evaluation: Evaluation, name: str) -> _Predictions:
    row = pd.Series(vars(evaluation.result))
    return _Predictions(
        name=name,
        title=_title(row),
        predictions=evaluation.predictions,
        labels=evaluation.test_labels,
        labels_sha256=evaluation.label_subsets.labels_sha256,
        label_subsets_sha256=evaluation.label_subsets.sha256,
        source=f"{row['encoder']} on {row['dataset']}",
    )


def _of_card(results: Path, name: str) -> _Predictions:
    if Path(name).suffix == ".json":
        results, name = Path(name).parent.parent / results.name, Path(name).stem
    stems = [path.stem for path in card_path(results, name).parent.glob("*.json")]
    matching = [stem for stem in stems if stem.startswith(name)]
    if len(matching) != 1:
        listed = ", ".join(sorted(matching or stems)) or "none"
        raise EvalkitError(f"{name}: {len(matching)} run cards of that name beside {results}; there are {listed}")
    card = read_card(results, matching[0])
    predictions, labels = read_predictions(results, matching[0], card)
    check_labels(labels, len(card.get("class_names", ())), f"{name}: test rows of this run card")
    row = pd.Series(card["result"])
    return _Predictions(
        name=name,
        title=_title(row),
        predictions=predictions,
        labels=labels,
        labels_sha256=card["labels_sha256"],
        label_subsets_sha256=card["label_subsets_sha256"],
        source=f"{row['encoder']} on {row['dataset']}",
    )


def _title(row: pd.Series) -> str:
    return f"{method_name(row)}; {row['dataset']}, labels per class: {row['protocol']}"


def compare_predictions(
    a: np.ndarray,
    b: np.ndarray,
    labels: np.ndarray,
    *,
    label_subsets: tuple[str, str],
    names: tuple[str, str] = ("A", "B"),
) -> Comparison:
    """Compares predictions (fits, test rows) for the same test rows, of several fits each, or of one each.

    Args:
        labels: true labels (test rows,).
        label_subsets: hashes of the label subsets that A and B were fitted on.
        names: of A and B in messages.

    Raises:
        EvalkitError: several fits on different label subsets, or different numbers of fits.
    """
    if len(a) != len(b):
        raise EvalkitError(
            f"{names[0]} has {len(a)} fits, {names[1]} {len(b)}: nothing to pair; "
            "measure one with the other's --label-subsets"
        )
    correct = a == labels, b == labels
    if len(a) == 1:
        return mcnemar(correct[0][0], correct[1][0])
    if label_subsets[0] != label_subsets[1] or not label_subsets[0]:
        raise EvalkitError(
            f"{names[0]} and {names[1]} were fitted on different label subsets: nothing to pair; "
            "measure one with the other's --label-subsets"
        )
    return paired_t_test(correct[0].mean(axis=1), correct[1].mean(axis=1))


def paired_t_test(a: np.ndarray, b: np.ndarray) -> Comparison:
    """Student's paired t-test over the accuracies (fits,) of fits on the same label subsets.

    The fits share their test images, so the interval is of the mean over label subsets on these images.
    """
    test, interval_type = "paired t-test over label subsets", "95% t interval"
    difference = 100 * float((a - b).mean())
    if np.ptp(a - b) == 0:  # Student's t divides by the standard deviation
        p_value = 1.0 if a[0] == b[0] else 0.0
        return Comparison(test, difference, difference, difference, interval_type, p_value, len(a))
    result = stats.ttest_rel(a, b)
    low, high = (100 * float(end) for end in result.confidence_interval(0.95))
    return Comparison(test, difference, low, high, interval_type, float(result.pvalue), len(a))


def mcnemar(a: np.ndarray, b: np.ndarray) -> Comparison:
    """McNemar's exact test; `a` and `b` say which test images are classified correctly, bool (images,)."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    pairs, count = only_a + only_b, len(a)
    p_value = float(stats.binomtest(only_a, pairs).pvalue) if pairs else 1.0
    difference = (only_a - only_b) / count
    half = 1.96 * float(np.sqrt(pairs - (only_a - only_b) ** 2 / count)) / count
    return Comparison(
        test=f"McNemar's exact test over {count:,} test images",
        difference=100 * difference,
        low=100 * (difference - half),
        high=100 * (difference + half),
        interval_type="95% normal interval",
        p_value=p_value,
        pairs=pairs,
    )

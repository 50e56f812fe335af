"""evaluate: from a feature set and a protocol to one figure.

C is chosen on validation rows taken out of the training split (Radford et al. 2016, section 5 and the release's SVHN
script); test rows are used once, for the figure.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from evalkit.device import describe_device, resolve_device
from evalkit.features.featureset import FeatureSet
from evalkit.probes.l2svm import l2svm_draws, l2svm_path
from evalkit.protocols.draws import check_labels, draw_labels, split_validation
from evalkit.protocols.selection import Progress, choose_C
from evalkit.protocols.settings import Protocol
from evalkit.results import Figure
from evalkit.version import versions

_ERROR_DATASETS = ("svhn",)  # figures published as error rates


def evaluate(
    features: FeatureSet,
    protocol: Protocol,
    *,
    device: str = "auto",
    memory: str | None = None,
    say: Progress = lambda line: None,
    show: Progress = lambda line: None,
) -> Figure:
    """Measures one figure.

    Args:
        features: rows with labels, splits `train` and `test`.
        protocol: what to draw and where to choose C.
        device: of the solver.
        memory: budget of the solver, e.g. "4GB"; None takes what the rows need.
        say: called with a line whenever something is known.
        show: called with a line at every step of the solver, for a display that the next one replaces.

    Raises:
        EvalkitError: one class only, fewer labels than the protocol draws, or a fit that missed its tolerance.
    """
    started = time.monotonic()
    train, test = features.rows("train"), features.rows("test")
    check_labels(features, train)
    fit, validation = split_validation(features.labels, train, protocol)
    measure = _all_labels if protocol.labels_per_class is None else _few_labels
    options = {"device": str(resolve_device(device)), "memory": memory, "progress": show}
    counted = protocol.with_counts(len(features.class_names))
    measured = measure(features, counted, fit, validation, test, options, say)
    error = features.dataset.split("-")[0] in _ERROR_DATASETS
    value = measured.accuracy if not error else 1 - measured.accuracy
    return Figure(
        dataset=features.dataset,
        encoder=features.encoder,
        features=features.features.shape[1],
        protocol=protocol.name,
        metric="error_percent" if error else "accuracy_percent",
        value=100 * value,
        spread=100 * measured.spread,
        spread_kind=measured.spread_kind,
        n=measured.n,
        C=measured.C,
        grid=measured.grid,
        validation_percent=100 * measured.validation_accuracy,
        n_train=measured.n_train,
        n_validation=len(validation),
        n_test=len(test),
        duality_gap=measured.duality_gap,
        error_estimate=measured.error_estimate,
        weights_sha256=features.weights_sha256,
        features_sha256=features.sha256,
        seed=protocol.seed,
        seconds=time.monotonic() - started,
        device=describe_device(resolve_device(device)),
        versions=" ".join(f"{name} {versions()[name]}" for name in ("evalkit", "torch", "numpy")),
        date=datetime.now(UTC).date().isoformat(),
    )


@dataclass(frozen=True)
class _Measured:
    accuracy: float
    spread: float
    spread_kind: str
    n: int
    C: float
    grid: str
    validation_accuracy: float
    n_train: int
    duality_gap: float
    error_estimate: float


def _all_labels(
    features: FeatureSet,
    protocol: Protocol,
    fit: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    options: dict,
    say: Progress,
) -> _Measured:
    """One path over C on the rows to fit; then one fit on all training rows at the chosen C, tested once."""
    labels = features.labels

    def score(Cs: Sequence[float]) -> list[float]:
        fits = l2svm_path(features.features, labels, list(Cs), rows=fit, **options)
        found = [float(np.mean(f.predict(features.features, rows=validation) == labels[validation])) for f in fits]
        say(", ".join(f"C {C:g}: {100 * accuracy:.2f} %" for C, accuracy in zip(Cs, found, strict=True)))
        return found

    C, validation_accuracy, grid = choose_C(score, grid=protocol.grid, say=say)
    # differs from the paper: it does not say whether validation rows rejoin the training set; here they do
    everything = np.sort(np.concatenate([fit, validation]))
    final = l2svm_path(features.features, labels, [C], rows=everything, **options)[0]
    accuracy = float(np.mean(final.predict(features.features, rows=test) == labels[test]))
    return _Measured(
        accuracy=accuracy,
        spread=1.96 * float(np.sqrt(accuracy * (1 - accuracy) / len(test))),
        spread_kind="95% binomial interval over test pictures",
        n=1,
        C=C,
        grid=grid,
        validation_accuracy=validation_accuracy,
        n_train=len(everything),
        duality_gap=float(np.max(final.duality_gap)),
        error_estimate=float(np.max(final.error_estimate)),
    )


def _few_labels(
    features: FeatureSet,
    protocol: Protocol,
    fit: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    options: dict,
    say: Progress,
) -> _Measured:
    """C by the mean over some draws, then fresh draws at that C, each tested; validation is not folded in [release]."""
    assert protocol.labels_per_class and protocol.select_draws and protocol.repeats
    labels, per_class = features.labels, protocol.labels_per_class
    options = {key: options[key] for key in ("device", "progress")}
    draws = [
        draw_labels(labels, fit, per_class, seed=(protocol.seed, i))
        for i in range(protocol.select_draws + protocol.repeats)
    ]

    def score(Cs: Sequence[float]) -> list[float]:
        chosen = draws[: protocol.select_draws]
        fits = l2svm_draws(features.features, labels, chosen, list(Cs), evaluate_rows=validation, **options)
        found = (fits.predictions == labels[validation]).mean(axis=(0, 2))
        say(", ".join(f"C {C:g}: {100 * accuracy:.2f} %" for C, accuracy in zip(Cs, found, strict=True)))
        return found.tolist()

    C, validation_accuracy, grid = choose_C(score, grid=protocol.grid, say=say)
    fresh = draws[protocol.select_draws :]
    fits = l2svm_draws(features.features, labels, fresh, [C], evaluate_rows=test, **options)
    accuracies = (fits.predictions[:, 0] == labels[test]).mean(axis=1)
    return _Measured(
        accuracy=float(accuracies.mean()),
        spread=1.96 * float(accuracies.std()),  # of single fits, not of their mean [release]
        spread_kind="1.96 std over draws",
        n=len(fresh),
        C=C,
        grid=grid,
        validation_accuracy=validation_accuracy,
        n_train=len(fresh[0]),
        duality_gap=float(np.max(fits.duality_gap)),
        error_estimate=float(np.max(fits.error_estimate)),
    )

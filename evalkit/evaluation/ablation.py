"""ablate: the L2-SVM's result on each layer of a feature set, or on the layers up to each."""

import logging
from collections.abc import Iterator
from pathlib import Path

from evalkit.evaluation.evaluate import Arrays, Evaluation, evaluate, find_features
from evalkit.evaluation.label_subsets import LabelSubsets, make_label_subsets, read_label_subsets
from evalkit.evaluation.protocol import Protocol
from evalkit.evaluation.record import recorded_result
from evalkit.features.featureset import FeatureSet
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)


def ablate(
    features: FeatureSet | Arrays | Path | str | None = None,
    protocol: Protocol | None = None,
    *,
    home: Workspace | Path | str | None = None,
    cumulative: bool = False,
    label_subsets: LabelSubsets | Path | str | None = None,
    device: str = "auto",
) -> Iterator[Evaluation]:
    """Evaluates each layer alone, all on the same label subsets; leaves out what the workspace's results.csv holds.

    Args:
        features, protocol, home, label_subsets, device: as for `evaluate`.
        cumulative: evaluate the layers up to each one instead.
    """
    protocol = protocol or Protocol()
    features = find_features(features, home=home, dataset=protocol.dataset)
    logger.info("%d layers: %s", len(features.layers), ", ".join(layer.name for layer in features.layers))
    if isinstance(label_subsets, str | Path):
        label_subsets = read_label_subsets(Path(label_subsets), features)
    label_subsets = label_subsets or make_label_subsets(features, protocol)
    results = None if home is None else Workspace.of(home).results
    for layer in features.layers:
        layers = f"{features.layers[0].name}..{layer.name}" if cumulative else layer.name
        if results and recorded_result(features, protocol, results=results, layers=layers, label_subsets=label_subsets):
            logger.info("%s: already measured", layers)
        else:
            logger.info("%s:", layers)
            yield evaluate(features, protocol, home=home, layers=layers, label_subsets=label_subsets, device=device)

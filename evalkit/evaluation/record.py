"""Recording: from an evaluation to its row of results.csv, the run card of that row and the file of its label subsets.

`evaluate` calls `record` when it has a workspace; `recorded_result` finds a row again, so that nothing is measured
twice.
"""

import dataclasses
import json
import logging
import math
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.artifacts import MANIFEST, Manifest, commit
from evalkit.evaluation.label_subsets import LabelSubsets, make_label_subsets, write_label_subsets
from evalkit.evaluation.protocol import Protocol
from evalkit.features.featureset import FeatureSet
from evalkit.gan.run_dir import updates_before
from evalkit.images import find_images_by_sha256
from evalkit.probes.classifiers import SVM
from evalkit.results import Card, Result, add_result, read_results, write_card
from evalkit.version import versions
from evalkit.workspace import Workspace

if TYPE_CHECKING:
    from evalkit.evaluation.evaluate import Evaluation

logger = logging.getLogger(__name__)


def record(
    evaluation: "Evaluation",
    features: FeatureSet,
    protocol: Protocol,
    *,
    home: Workspace | Path | str | None = None,
    results: Path | str | None = None,
) -> "Evaluation":
    """Writes the evaluation's label subsets, run card and row; returns it with the card's name in its result.

    Args:
        home: the workspace, or its folder; by default the folder of `results`.
        results: the results.csv, with the cards beside it; by default the workspace's.
    """
    assert home is not None or results is not None
    workspace = Workspace.of(home if home is not None else Path(str(results)).parent)
    path = workspace.results if results is None else Path(results)
    logger.info("label subsets: %s", write_label_subsets(workspace.label_subsets, evaluation.label_subsets))
    content = card_content(evaluation, features, protocol) | {"training": training_facts(features, workspace)}
    card = write_card(path, content, predictions=evaluation.predictions, labels=evaluation.test_labels)
    result = dataclasses.replace(evaluation.result, card=card)
    add_result(path, result)
    return dataclasses.replace(evaluation, result=result)


def recorded_result(
    features: FeatureSet,
    protocol: Protocol,
    *,
    results: Path,
    layers: str = "",
    label_subsets: LabelSubsets | None = None,
) -> Result | None:
    """The L2-SVM's result on these features under this protocol, from a results.csv; None if there is none.

    The label subsets, by default the protocol's, are compared by their hash, which covers all of the protocol but its
    search range.
    """
    table = read_results(results)
    expected = {
        "dataset": features.dataset,
        "features_sha256": features.sha256,
        "encoder": features.encoder,
        "layers": layers,
        "classifier": SVM.display_name,
        "label_subsets_sha256": (label_subsets or make_label_subsets(features, protocol)).sha256,
    }
    same = table["search_range"].str.startswith(f"{protocol.c_grid} ")
    for column, value in expected.items():
        same &= table[column] == value
    rows = table[same]
    return None if rows.empty else Result(**{str(key): value for key, value in rows.iloc[-1].items()})


def card_content(evaluation: "Evaluation", features: FeatureSet, protocol: Protocol) -> Card:
    """All that led to the result, as JSON values; paths are left out, since hashes find the artifacts anywhere."""
    result, label_subsets, origin = evaluation.result, evaluation.label_subsets, features.provenance
    protocol = protocol.with_counts(len(features.class_names))
    settings = {key: value for key, value in features.manifest["settings"].items() if key != "weights"}
    return {
        "result": result_row(result),
        "protocol": dataclasses.asdict(protocol),
        "validation_curve": [[_json(value), percent] for value, percent in evaluation.validation_curve],
        "labels_sha256": label_subsets.labels_sha256,
        "label_subsets_sha256": label_subsets.sha256,
        "label_subsets_are_the_protocols": label_subsets.drawn_for == protocol,
        "images_sha256": origin.images_sha256,
        "weights_sha256": features.weights_sha256,
        "features_sha256": features.sha256,
        "extraction": {**settings, "created": origin.created, "commit": origin.commit},
        "layers": [layer.as_dict() for layer in features.layers],
        "class_names": list(features.class_names),
        "solver": {key: _json(getattr(result, key)) for key in ("duality_gap", "error_estimate")},
        "seconds": dict(evaluation.seconds),
        "hardware": {"device": result.device, "cores": os.cpu_count(), "system": platform.system()},
        **provenance(),
        "command": command_line(),
    }


def result_row(result: Result) -> dict[str, Any]:
    """A result as a run card holds it: all columns but the card's own name."""
    return {key: _json(value) for key, value in dataclasses.asdict(result).items() if key != "card"}


def provenance() -> dict[str, Any]:
    """Versions, commit and time, as run cards hold them."""
    return {
        "versions": versions(),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _json(value: Any) -> Any:
    """The value, but None for NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def command_line() -> str:
    """The command that started this process; absolute paths, which mean nothing elsewhere, are cut to their names."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "evalkit")
    return shlex.join([program, *(Path(each).name if Path(each).is_absolute() else each for each in sys.argv[1:])])


def training_facts(features: FeatureSet, workspace: Workspace) -> dict[str, Any]:
    """How the encoder was trained, as its checkpoint says: recipe, updates, images; empty where nothing says it."""
    checkpoint = Path(features.provenance.weights or "nowhere").parent
    if not (checkpoint / MANIFEST).is_file():
        return {}
    return facts_of(json.loads((checkpoint / MANIFEST).read_text()), workspace)


def facts_of(manifest: Manifest, workspace: Workspace) -> dict[str, Any]:
    """What the manifest of a run or checkpoint says about the training, with the images' name and size if available."""
    sha256 = manifest["made_from"].get("images_sha256", "")
    images = find_images_by_sha256(workspace, sha256)
    facts = dict(manifest["settings"])
    if "run" in facts:  # weights released without their run
        facts |= facts["run"] | {"d_updates": manifest["made_from"]["d_updates"]}
    elif history := facts.get("history"):
        facts["precision"] = history[-1]["precision"]
    if before := updates_before(manifest):
        facts["d_updates_before"] = before
    facts |= {"commit": manifest["commit"], "images_sha256": sha256}
    if images is not None:
        facts |= {"images": images.name, "num_images": len(images), "classes": len(images.class_names)}
    elif "num_images" not in facts:  # a name alone says too little of what was trained on
        facts.pop("images", None)
    return facts

"""From an evaluation to its row of results.csv and the run card that the row leads to."""

import dataclasses
import json
import math
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evalkit.artifacts import MANIFEST, Manifest, commit
from evalkit.evaluation.evaluate import Evaluation
from evalkit.evaluation.label_subsets import make_label_subsets
from evalkit.evaluation.protocol import Protocol
from evalkit.features.featureset import FeatureSet
from evalkit.gan.run_dir import updates_before
from evalkit.images import find_images_by_sha256
from evalkit.results import Card, add_result, write_card
from evalkit.version import versions
from evalkit.workspace import Workspace


def record(workspace: Workspace, evaluation: Evaluation, features: FeatureSet, protocol: Protocol) -> Evaluation:
    """Writes the evaluation's run card and its row of results.csv; returns it with the card named in its figure."""
    content = card_content(evaluation, features, protocol) | {"training": training_facts(features, workspace)}
    name = write_card(workspace.results, content, predictions=evaluation.predictions, labels=evaluation.test_labels)
    figure = dataclasses.replace(evaluation.result, card=name)
    add_result(workspace.results, figure)
    return dataclasses.replace(evaluation, result=figure)


def card_content(evaluation: Evaluation, features: FeatureSet, protocol: Protocol) -> Card:
    """All that led to the figure, as JSON values; paths are left out, since hashes find the artifacts anywhere."""
    figure, manifest = evaluation.result, features.manifest
    row = {key: _json(value) for key, value in dataclasses.asdict(figure).items() if key != "card"}
    settings = {key: value for key, value in manifest["settings"].items() if key != "weights"}
    return {
        "result": row,
        "protocol": dataclasses.asdict(protocol.with_counts(len(features.class_names))),
        "curve": [[_json(value), percent] for value, percent in evaluation.validation_curve],
        "labels_sha256": evaluation.label_subsets.labels_sha256,
        "label_subsets_sha256": evaluation.label_subsets.sha256,
        "draws_are_the_protocols": evaluation.label_subsets.sha256 == make_label_subsets(features, protocol).sha256,
        "images_sha256": manifest["made_from"].get("images_sha256", ""),
        "weights_sha256": features.weights_sha256,
        "features_sha256": features.sha256,
        "extraction": {**settings, "created": manifest.get("created", ""), "commit": manifest.get("commit", "")},
        "layers": [layer.as_dict() for layer in features.layers],
        "class_names": list(features.class_names),
        "solver": {key: _json(getattr(figure, key)) for key in ("duality_gap", "error_estimate")},
        "seconds": dict(evaluation.seconds),
        "hardware": {"device": figure.device, "cores": os.cpu_count(), "system": platform.system()},
        "versions": versions(),
        "commit": commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
    }


def _json(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def command_line() -> str:
    """The command that this process was started with; of absolute paths, which mean nothing elsewhere, their names."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "evalkit")
    return shlex.join([program, *(Path(each).name if Path(each).is_absolute() else each for each in sys.argv[1:])])


def training_facts(features: FeatureSet, workspace: Workspace) -> dict[str, Any]:
    """How the encoder was trained, as its checkpoint says: recipe, updates, images; empty where nothing says it."""
    checkpoint = Path(features.manifest["settings"].get("weights") or "nowhere").parent
    if not (checkpoint / MANIFEST).is_file():
        return {}
    return facts_of(json.loads((checkpoint / MANIFEST).read_text()), workspace)


def facts_of(manifest: Manifest, workspace: Workspace) -> dict[str, Any]:
    """What a run's or checkpoint's manifest says of the training, with name and size of the images if at hand."""
    sha256 = manifest["made_from"].get("images_sha256", "")
    images = find_images_by_sha256(workspace, sha256)
    about = (
        {} if images is None else {"images": images.name, "num_images": len(images), "classes": len(images.class_names)}
    )
    history = manifest["settings"].get("history")
    arithmetic = {"precision": history[-1]["precision"]} if history else {}
    if "run" in manifest["settings"]:  # weights that were handed on
        arithmetic = manifest["settings"]["run"] | {"d_updates": manifest["made_from"]["d_updates"]}
    if before := updates_before(manifest):
        arithmetic |= {"d_updates_before": before}
    return {**manifest["settings"], **arithmetic, "commit": manifest["commit"], "images_sha256": sha256, **about}

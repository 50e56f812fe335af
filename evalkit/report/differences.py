"""How what was measured differs from what the paper did: the facts that explain a distance to its results.

`render` shows them for the best trained network of every table.
"""

from typing import NamedTuple

from evalkit.features.options import Augmentation
from evalkit.gan.recipes import RECIPES, Recipe
from evalkit.report.data import ResultWithCard, best_result
from evalkit.report.tables import images_kind, original

_IMAGENET = "ImageNet-1k: about 1,281,000 images of 1,000 classes"
_PAPER_NETWORKS = {"cifar10": "imagenet32", "svhn": "svhn", "mnist": "mnist"}  # of its tables 1, 2 and 3
_STATISTICS = {
    "target": "of the training images evaluated (its release)",
    "source": "of the images trained on",
    "running": "of the training itself",
    "batch": "of each batch",
}
_PAPER_IMAGES = {"imagenet32": _IMAGENET, "svhn": "SVHN's training images"}


class Difference(NamedTuple):
    """One difference: what differs, its value in the paper, its value here."""

    what: str
    paper: str
    here: str


def differences(each: ResultWithCard) -> list[Difference]:
    """Where the result's data, network and protocol are not the paper's, as far as its run card says.

    Empty for a data set that the paper has no results on.
    """
    if _paper_recipe(each) is None:
        return []
    facts = [*_of_images(each), *_of_training(each), *_of_features(each), *_of_protocol(each)]
    return [fact for fact in facts if fact.paper != fact.here]


def differences_by_dataset(groups: dict[tuple[str, str], list[ResultWithCard]]) -> dict[str, list[Difference]]:
    """ "METHOD on DATASET" -> the differences of its results, for the best trained network of every table."""
    by_name: dict[str, list[Difference]] = {}
    for (dataset, _), group in groups.items():
        best = best_result([each for each in group if each.trained[0]] or group)
        lines = by_name.setdefault(f"{best.method} on {dataset}", [])
        lines += [line for line in differences(best) if line not in lines]
    return {name: lines for name, lines in by_name.items() if lines}


def _paper_recipe(each: ResultWithCard) -> Recipe | None:
    """The paper's recipe that the network is compared with: the one of the same name, else the table's."""
    name = each.training.get("recipe", {}).get("name", "")
    table = _PAPER_NETWORKS.get(original(each.row["dataset"]))
    return RECIPES[name if name in _PAPER_NETWORKS.values() else table] if table else None


def _of_images(each: ResultWithCard) -> list[Difference]:
    row, kind = each.row, images_kind(str(each.row["dataset"]))
    here = f"a part: {row['n_test']:,} test images" if kind == "part" else kind
    return [Difference(f"images evaluated ({row['dataset']})", "original", here)]


def _of_training(each: ResultWithCard) -> list[Difference]:
    training = each.training
    recipe = training.get("recipe", {})
    paper = _paper_recipe(each)
    if not recipe or paper is None:
        return []
    updates = training.get("d_updates", 0) + training.get("d_updates_before", 0)
    lines = [
        Difference("updates of D", f"{paper.d_updates:,}", f"{updates:,} ({100 * updates / paper.d_updates:.1f} %)"),
        Difference("arithmetic", "float32", training.get("precision", "not recorded")),
    ]
    if "images" in training:
        here = f"{training['images']}: {training['num_images']:,} images of {training['classes']} classes"
        lines.insert(0, Difference("images trained on", _PAPER_IMAGES.get(paper.name, "not stated"), here))
    elsewhere = ("name", "images", "d_updates")  # shown above, or no difference
    for key, value in paper.as_dict().items():
        if key in recipe and key not in elsewhere and _as_json(recipe[key]) != _as_json(value):
            lines.append(Difference(f"recipe: {key}", str(_as_json(value)), str(_as_json(recipe[key]))))
    return lines


def _as_json(value: object) -> object:
    """JSON has lists where the recipe has tuples."""
    return list(value) if isinstance(value, tuple) else value


def _of_features(each: ResultWithCard) -> list[Difference]:
    extraction, scaling = each.card.get("extraction", {}), str(each.row["scaling"])
    lines = [Difference("features scaled", "no", scaling or "no")]
    augmentation = Augmentation(extraction.get("hflip", False), extraction.get("shift", 0))
    lines.append(Difference("features averaged", "no", " and ".join(augmentation.variant()) or "no"))
    if each.training.get("recipe") and extraction.get("batch_norm"):
        mode = extraction["batch_norm"]
        lines.append(Difference("batch-norm statistics", _STATISTICS["target"], _STATISTICS.get(mode, mode)))
    return lines


def _of_protocol(each: ResultWithCard) -> list[Difference]:
    row, protocol = each.row, each.card.get("protocol", {})
    lines = []
    low, dots, high = str(row["search_range"]).rpartition(" ")[2].partition("..")
    if dots and (low, high) != ("0.0001", "0.01"):
        lines.append(Difference("C values tried", "0.0001 to 0.01 (its SVHN script)", f"{low} to {high}"))
    if protocol.get("labels_per_class"):
        lines.append(Difference("label subsets that select C", "10", str(protocol["num_selection_subsets"])))
        lines.append(Difference("label subsets that are tested", "100", str(protocol["num_test_subsets"])))
    lines.append(Difference("C selected on", "validation", str(row["select_on"])))
    return lines

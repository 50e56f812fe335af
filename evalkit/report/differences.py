"""How what was measured differs from what the paper did: the facts that explain a distance to its figures."""

from typing import NamedTuple

from evalkit.features.augmentation import Augmentation
from evalkit.gan.recipes import RECIPES, Recipe
from evalkit.report.data import ResultWithCard, best
from evalkit.report.tables import LOSSY, images_of, original

_IMAGENET = "ImageNet-1k: about 1,281,000 images of 1,000 classes"
_PAPERS_NETWORKS = {"cifar10": "imagenet32", "svhn": "svhn", "mnist": "mnist"}  # of its tables 1, 2 and 3
_STATISTICS = {
    "target": "of the training images evaluated (its release)",
    "source": "of the images trained on",
    "running": "of the training itself",
    "batch": "of each batch",
}
_PAPERS_IMAGES = {"imagenet32": _IMAGENET, "svhn": "SVHN's training images"}


class Difference(NamedTuple):
    """One line: what, as the paper has it, as it was here."""

    what: str
    paper: str
    here: str


def differences(each: ResultWithCard) -> list[Difference]:
    """Where the figure's data, network and protocol are not the paper's, as far as its run card says.

    None for a data set that the paper has no figures of.
    """
    if _of_the_paper(each) is None:
        return []
    found = [*_of_images(each), *_of_training(each), *_of_features(each), *_of_protocol(each)]
    return [line for line in found if line.paper != line.here]


def differences_by_dataset(groups: dict[tuple[str, str], list[ResultWithCard]]) -> dict[str, list[Difference]]:
    """ "METHOD on DATASET" -> the differences of its figures, of the best trained network in every table."""
    found: dict[str, list[Difference]] = {}
    for (dataset, _), group in groups.items():
        top = best([each for each in group if each.trained[0]] or group)
        lines = found.setdefault(f"{top.method} on {dataset}", [])
        lines += [line for line in differences(top) if line not in lines]
    return {name: lines for name, lines in found.items() if lines}


def _of_the_paper(each: ResultWithCard) -> Recipe | None:
    """The paper's network that the one measured is held against: that of its own name, else that of the table."""
    name = each.training.get("recipe", {}).get("name", "")
    table = _PAPERS_NETWORKS.get(original(each.row["dataset"]))
    return RECIPES[name if name in _PAPERS_NETWORKS.values() else table] if table else None


def _of_images(each: ResultWithCard) -> list[Difference]:
    dataset = str(each.row["dataset"])
    kind = images_of(dataset)
    here = "a lossy JPEG copy" if kind == LOSSY else kind
    return [Difference(f"images evaluated ({dataset})", "original", here)]


def _of_training(each: ResultWithCard) -> list[Difference]:
    training = each.training
    recipe = training.get("recipe", {})
    papers = _of_the_paper(each)
    if not recipe or papers is None:
        return []
    updates = training.get("d_updates", 0) + training.get("d_updates_before", 0)
    lines = [
        Difference("updates of D", f"{papers.d_updates:,}", f"{updates:,} ({100 * updates / papers.d_updates:.1f} %)"),
        Difference("arithmetic", "float32", training.get("precision", "not stamped")),
    ]
    if "images" in training:
        here = f"{training['images']}: {training['num_images']:,} images of {training['classes']} classes"
        lines.insert(0, Difference("images trained on", _PAPERS_IMAGES.get(papers.name, "not stated"), here))
    kept = ("name", "images", "d_updates")
    own = {key: value for key, value in papers.as_dict().items() if key not in kept}
    changed = [key for key, value in own.items() if key in recipe and _plain(recipe[key]) != _plain(value)]
    return lines + [Difference(f"recipe: {key}", str(_plain(own[key])), str(_plain(recipe[key]))) for key in changed]


def _plain(value: object) -> object:
    """JSON has lists where the recipe has tuples."""
    return list(value) if isinstance(value, tuple) else value


def _of_features(each: ResultWithCard) -> list[Difference]:
    extraction, scaling = each.card.get("extraction", {}), str(each.row["scaling"])
    lines = [Difference("features scaled", "no", scaling or "no")]
    views = Augmentation(extraction.get("hflip", False), extraction.get("shift", 0)).variant()
    lines.append(Difference("features averaged", "no", " and ".join(views) or "no"))
    if each.training.get("recipe") and extraction.get("batch_norm"):
        mode = extraction["batch_norm"]
        lines.append(Difference("batch-norm statistics", _STATISTICS["target"], _STATISTICS.get(mode, mode)))
    return lines


def _of_protocol(each: ResultWithCard) -> list[Difference]:
    row, protocol = each.row, each.card.get("protocol", {})
    low, high = (
        str(row["search_range"]).rpartition(" ")[2].split("..") if ".." in str(row["search_range"]) else ("", "")
    )
    lines = []
    if low and (low, high) != ("0.0001", "0.01"):
        lines.append(Difference("C values tried", "0.0001 to 0.01 (its SVHN script)", f"{low} to {high}"))
    if protocol.get("labels_per_class"):
        lines.append(Difference("draws that choose C", "10", str(protocol["num_selection_subsets"])))
        lines.append(Difference("draws that are tested", "100", str(protocol["num_test_subsets"])))
    lines.append(Difference("C chosen on", "validation", str(row["select_on"])))
    return lines

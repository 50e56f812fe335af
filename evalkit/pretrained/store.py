"""Weights as an artifact: networks as safetensors, a manifest with recipe, source and licence, and a card to read.

NAME/manifest.json              recipe, layers, source, licence, hashes
NAME/discriminator.safetensors  NAME/generator.safetensors (where there is one)
NAME/source_statistics.safetensors (where asked for: batch-norm statistics of the images trained on)
NAME/card.md                    the manifest for people, with figures measured
NAME/samples-UPDATES.png  NAME/probe.csv    of the training, by D updates in all

The card: what people should know of weights before they use them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evalkit.artifacts import Manifest, already_built, new_manifest, read_manifest, write_artifact, write_atomically
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.gan.checkpoint import load_weights, stored_recipe
from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.recipes import Recipe, override
from evalkit.results import method_name, read_results

KIND = "pretrained weights"
STATISTICS = "source_statistics.safetensors"
CARD = "card.md"  # for people; made from the manifest and figures, so not among the files that it vouches for
DTYPES = {"float32": torch.float32, "float16": torch.float16}
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Pretrained:
    """Weights about to be stored.

    Attributes:
        recipe: describes both networks; for an incomplete discriminator, its first layers alone.
        discriminator, generator: state dicts of our networks; either may be None, not both. A discriminator without
            "out.weight" is incomplete: it gives features and no verdicts.
        settings: what the card says: about, source, licence, notes.
        made_from: hashes of the files that the weights came in.
        evidence: other files to store, by name: samples, the curve of a probe.
    """

    recipe: Recipe
    discriminator: Weights | None
    generator: Weights | None
    settings: dict[str, Any]
    made_from: dict[str, Any]
    evidence: Mapping[str, bytes] = field(default_factory=dict)


def first_layers(recipe: Recipe, count: int) -> Recipe:
    """The recipe with D's first `count` conv layers alone."""
    return override(recipe, {"d_channel_mults": recipe.d_channel_mults[:count], "d_strides": recipe.d_strides[:count]})


def save_pretrained(weights: Pretrained, target: Path, *, replace: bool = False, dtype: str = "float32") -> Path:
    """Writes weights as an artifact; the same made from the same files is left as it is.

    Args:
        dtype: of the files: "float32", or "float16" for half the size; what is loaded is float32 again.

    Raises:
        EvalkitError: other weights of that name are there and `replace` is not asked.
    """
    settings = {"recipe": weights.recipe.as_dict()} | weights.settings | {"dtype": dtype}
    inputs: dict[str, Any] = {"settings": settings, "made_from": weights.made_from}
    compared = ("dtype", "source_statistics")  # and the recipe, which may have been stored before a key was added
    if not replace and (stored := already_built(target, KIND, **inputs, compared=compared, replace=False)):
        if stored_recipe(stored) != weights.recipe:
            raise EvalkitError(f"{target}: holds weights of another recipe; choose another name, or replace them")
        return target
    with write_artifact(target, **inputs) as artifact:
        for name, tensors in (("discriminator", weights.discriminator), ("generator", weights.generator)):
            if tensors is not None:
                save_file(_plain(tensors, DTYPES[dtype]), artifact.path / f"{name}.safetensors")
        for name, content in weights.evidence.items():
            write_atomically(artifact.path / name, content)
        manifest = new_manifest(KIND, **inputs)
        write_atomically(artifact.path / CARD, card_text(target.name, manifest, artifact.path))
        artifact.finish(manifest, unhashed=(CARD,))
    return target


def _plain(tensors: Weights, dtype: torch.dtype) -> Weights:
    """As safetensors writes them: what is floating point in `dtype`, whole numbers (counts of batches) as they are."""
    found = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in found.items()}


def renew_card(path: Path, results: Path) -> int:
    """Writes the card of stored weights again, with the figures of `results` that were measured with them.

    Returns: how many figures those are; rows belong by the SHA-256 of the discriminator's file.

    Raises:
        ArtifactError: no weights there, or no results.csv.
    """
    manifest = read_pretrained(path)
    sha256 = manifest["files"].get("discriminator.safetensors", {}).get("sha256")
    table = read_results(results)
    figures = table[table["weights_sha256"] == sha256]
    write_atomically(path / CARD, card_text(path.name, manifest, path, figures))
    return len(figures)


def read_pretrained(path: Path) -> Manifest:
    """The manifest of stored weights whose files hash to what it says.

    Raises:
        ArtifactError: missing, cut short or changed.
    """
    return read_manifest(path, KIND, check_hashes=True)


def load_discriminator(path: Path) -> Discriminator:
    """The discriminator of stored weights, or its first conv layers where that is all there is.

    Raises:
        ArtifactError: there is none, or names or shapes are not the recipe's.
    """
    manifest = read_pretrained(path)
    discriminator = Discriminator(stored_recipe(manifest))
    if not manifest["settings"]["complete"]:
        del discriminator.out  # an incomplete network judges no images
    load_weights(discriminator, _file(path, "discriminator", manifest))
    return discriminator


def load_generator(path: Path) -> Generator:
    """The generator of stored weights.

    Raises:
        ArtifactError: there is none, or names or shapes are not the recipe's.
    """
    manifest = read_pretrained(path)
    generator = Generator(stored_recipe(manifest))
    load_weights(generator, _file(path, "generator", manifest))
    return generator


def load_source_statistics(path: Path, manifest: Manifest) -> Weights:
    """Batch-norm statistics of the images trained on, float32 (maps,) by name; empty where weights came without.

    Args:
        manifest: from `read_pretrained`, which vouches for the file.
    """
    return load_file(path / STATISTICS) if STATISTICS in manifest["files"] else {}


def _file(path: Path, network: str, manifest: Manifest) -> Path:
    name = f"{network}.safetensors"
    if name not in manifest["files"]:
        raise ArtifactError(f"{path}: holds no {network}; it has {', '.join(sorted(manifest['files']))}")
    return path / name


_TRAINING = ("batch_size", "lr", "beta1", "beta2", "l2", "schedule", "d_updates")


def card_text(name: str, manifest: Manifest, folder: Path, figures: pd.DataFrame | None = None) -> str:
    """The card as Markdown: what it is, source, licence, limits, figures, how it was trained, the networks, the files.

    Args:
        figures: rows of a results.csv that were measured with these weights.
    """
    settings, recipe = manifest["settings"], manifest["settings"]["recipe"]
    lines = [f"# {name}", "", settings["about"], ""]
    lines += [f"- {key}: {settings[key]}" for key in ("source", "licence")]
    lines += [f"- {note}" for note in settings["notes"]]
    lines += ["", f"Use: `evalkit extract --encoder pretrained:{name}`", ""]
    if figures is not None and len(figures):
        lines += ["## Figures", "", *(_figure_line(row) for _, row in figures.iterrows()), ""]
    if settings["training_known"]:
        trained = {"d_updates": manifest["made_from"].get("d_updates", recipe["d_updates"])}
        facts = {key: recipe[key] for key in _TRAINING} | trained | settings.get("run", {})
        lines += ["## Training", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    described = {key: value for key, value in recipe.items() if key not in _TRAINING and value not in ("", [], 0)}
    lines += ["## Networks", "", *(f"- {key}: {value}" for key, value in described.items())]
    lines += ["", "## Files", ""]
    lines += [_file_line(path, settings.get("dtype", "float32")) for path in sorted(folder.glob("*.safetensors"))]
    return "\n".join([*lines, "", "Hashes and versions: manifest.json", ""])


def _file_line(path: Path, dtype: str) -> str:
    dtype = dtype if path.stem in ("discriminator", "generator") else "float32"
    return f"- {path.name}: {path.stat().st_size:,} bytes, {dtype}"


def _figure_line(row: "pd.Series[Any]") -> str:
    labels = "all labels" if row["protocol"] == "all" else f"{row['protocol']} labels a class"
    card = f", run card {row['card']}" if row["card"] else ""
    return (
        f"- {row['dataset']}, {labels}, {method_name(row)}: {row['metric'].replace('_', ' ')} {row['value']:.2f} "
        f"± {row['uncertainty']:.2f} ({row['uncertainty_type']}, n = {row['n']}), {row['date']}, {row['device']}{card}"
    )

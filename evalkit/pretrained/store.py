"""Pretrained weights as an artifact: networks as safetensors, a manifest with recipe, source and licence, and a card.

NAME/manifest.json                    recipe, source, licence, hashes
NAME/discriminator.safetensors        NAME/generator.safetensors, where there is one
NAME/source_statistics.safetensors    batch-norm statistics of the images trained on, if asked for
NAME/card.md                          the manifest for readers, with the results measured with the weights
NAME/samples-UPDATES.png              NAME/probe.csv: from training, by total D updates

`import_weights` and `registry.fetch_pretrained` write them; encoders and latent experiments load the networks.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from evalkit.artifacts import Manifest, already_built, new_manifest, read_manifest, write_artifact, write_atomically
from evalkit.errors import ArtifactError, EvalkitError, one_line
from evalkit.gan.checkpoint import load_weights, stored_recipe
from evalkit.gan.networks import Discriminator, Generator
from evalkit.gan.recipes import Recipe, override
from evalkit.results import method_name, read_results
from evalkit.weights_files import read_weights

KIND = "pretrained weights"
STATISTICS = "source_statistics.safetensors"
CARD = "card.md"  # written again as results come in, so the manifest has no hash of it
DTYPES = {"float32": torch.float32, "float16": torch.float16}
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class PretrainedSettings:
    """What a manifest says about weights.

    Attributes:
        recipe: describes both networks; for an incomplete discriminator, its first layers only.
        about: one line for the list and the card.
        source, licence: where the weights are from, and their licence.
        notes: limits to know, one line each.
        complete: whether the discriminator has its output layer; an incomplete one gives features but no logits.
        training_known: whether the recipe says how they were trained, too.
        run: lines of the card on the training run, by name.
        dtype: floating-point type in the files.
        source_statistics: arithmetic in which the statistics of the images trained on were computed; empty without.
    """

    recipe: Recipe
    about: str
    source: str
    licence: str
    notes: tuple[str, ...]
    complete: bool
    training_known: bool
    run: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    source_statistics: str = ""

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "PretrainedSettings":
        """The settings in a manifest of weights.

        Raises:
            ArtifactError: settings that are missing or of another type.
        """
        names = {each.name for each in fields(cls)}
        try:
            values = {key: value for key, value in manifest["settings"].items() if key in names}
            settings = cls(**values | {"recipe": stored_recipe(manifest), "notes": tuple(values["notes"])})
            texts = (settings.about, settings.source, settings.licence, settings.dtype, *settings.notes)
            if not all(isinstance(each, str) for each in texts) or not isinstance(settings.run, Mapping):
                raise TypeError("about, source, licence, dtype and notes are texts, run is a dictionary")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"damaged manifest of weights ({one_line(error)}); import the weights again") from None
        return settings

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON values; empty ones that have a default are left out."""
        values = asdict(self) | {"recipe": self.recipe.as_dict(), "notes": list(self.notes)}
        return {key: value for key, value in values.items() if value or key not in ("run", "source_statistics")}


@dataclass(frozen=True)
class Pretrained:
    """Weights to store.

    Attributes:
        settings: what the manifest and the card say.
        discriminator, generator: state dicts of our networks; either may be None, not both. A discriminator without
            "out.weight" is incomplete.
        made_from: hashes of the files that the weights came in.
        training_logs: other files to store, by name: samples, the training probe's curve.
    """

    settings: PretrainedSettings
    discriminator: Weights | None
    generator: Weights | None
    made_from: dict[str, Any]
    training_logs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The recipe that describes both networks."""
        return self.settings.recipe


def first_layers(recipe: Recipe, count: int) -> Recipe:
    """The recipe with only D's first `count` conv layers."""
    return override(recipe, {"d_channel_mults": recipe.d_channel_mults[:count], "d_strides": recipe.d_strides[:count]})


def save_pretrained(weights: Pretrained, target: Path, *, replace: bool = False) -> Path:
    """Writes weights as an artifact; weights already made from the same files are left as they are.

    Raises:
        EvalkitError: other weights have that name, and `replace` is False.
    """
    settings = weights.settings
    inputs: dict[str, Any] = {"settings": settings.as_dict(), "made_from": weights.made_from}
    compared = ("dtype", "source_statistics")  # and the recipe, which may have been stored before a key was added
    if not replace and (stored := already_built(target, KIND, **inputs, compared=compared, replace=False)):
        if stored_recipe(stored) != weights.recipe:
            raise EvalkitError(f"{target}: holds weights of another recipe; choose another name, or replace them")
        return target
    with write_artifact(target, **inputs) as artifact:
        for name, tensors in (("discriminator", weights.discriminator), ("generator", weights.generator)):
            if tensors is not None:
                save_file(_as_stored(tensors, DTYPES[settings.dtype]), artifact.path / f"{name}.safetensors")
        for name, content in weights.training_logs.items():
            write_atomically(artifact.path / name, content)
        manifest = new_manifest(KIND, **inputs)
        write_atomically(artifact.path / CARD, card_text(target.name, manifest, artifact.path))
        artifact.finish(manifest, unhashed=(CARD,))
    return target


def _as_stored(tensors: Weights, dtype: torch.dtype) -> Weights:
    """The tensors for the file: floating-point ones in `dtype`, integers (counts of batches) as they are."""
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in plain.items()}


def read_pretrained(path: Path) -> Manifest:
    """The manifest of stored weights, whose files have the hashes that it says.

    Raises:
        ArtifactError: missing, cut short or changed.
    """
    return read_manifest(path, KIND, check_hashes=True)


def load_discriminator(path: Path) -> Discriminator:
    """The discriminator of stored weights; of incomplete weights, its first conv layers.

    Raises:
        ArtifactError: there is none, or names or shapes differ from the recipe's.
    """
    manifest = read_pretrained(path)
    settings = PretrainedSettings.from_manifest(manifest)
    discriminator = Discriminator(settings.recipe)
    if not settings.complete:
        del discriminator.out  # an incomplete network gives no logits
    load_weights(discriminator, _file(path, "discriminator", manifest))
    return discriminator


def load_generator(path: Path) -> Generator:
    """The generator of stored weights.

    Raises:
        ArtifactError: there is none, or names or shapes differ from the recipe's.
    """
    manifest = read_pretrained(path)
    generator = Generator(stored_recipe(manifest))
    load_weights(generator, _file(path, "generator", manifest))
    return generator


def load_source_statistics(path: Path, manifest: Manifest) -> Weights:
    """Batch-norm statistics of the images trained on, float32 (channels,) by name; empty where weights have none.

    Args:
        manifest: from `read_pretrained`, which has checked the file's hash.
    """
    return read_weights(path / STATISTICS) if STATISTICS in manifest["files"] else {}


def _file(path: Path, network: str, manifest: Manifest) -> Path:
    name = f"{network}.safetensors"
    if name not in manifest["files"]:
        raise ArtifactError(f"{path}: holds no {network}; it has {', '.join(sorted(manifest['files']))}")
    return path / name


# -- the card


def renew_card(path: Path, results: Path) -> int:
    """Writes the card of stored weights again, with the results in `results` that were measured with them.

    Returns: the number of those results; rows are matched by the SHA-256 of the discriminator's file.

    Raises:
        ArtifactError: no weights there, or no results.csv.
    """
    manifest = read_pretrained(path)
    sha256 = manifest["files"].get("discriminator.safetensors", {}).get("sha256")
    table = read_results(results)
    rows = table[table["weights_sha256"] == sha256]
    write_atomically(path / CARD, card_text(path.name, manifest, path, rows))
    return len(rows)


_TRAINING = ("batch_size", "lr", "beta1", "beta2", "l2", "schedule", "d_updates")


def card_text(name: str, manifest: Manifest, folder: Path, results: pd.DataFrame | None = None) -> str:
    """The card as Markdown: what it is, source, licence, limits, results, training, networks, files.

    Args:
        results: rows of a results.csv that were measured with these weights.
    """
    settings = PretrainedSettings.from_manifest(manifest)
    recipe = settings.recipe.as_dict()
    lines = [f"# {name}", "", settings.about, "", f"- source: {settings.source}", f"- licence: {settings.licence}"]
    lines += [f"- {note}" for note in settings.notes]
    lines += ["", f"Use: `evalkit extract --encoder pretrained:{name}`", ""]
    if results is not None and len(results):
        lines += ["## Results", "", *(_result_line(row) for _, row in results.iterrows()), ""]
    if settings.training_known:
        trained = {"d_updates": manifest["made_from"].get("d_updates", recipe["d_updates"])}
        facts = {key: recipe[key] for key in _TRAINING} | trained | dict(settings.run)
        lines += ["## Training", "", *(f"- {key}: {value}" for key, value in facts.items()), ""]
    described = {key: value for key, value in recipe.items() if key not in _TRAINING and value not in ("", [], 0)}
    lines += ["## Networks", "", *(f"- {key}: {value}" for key, value in described.items())]
    lines += ["", "## Files", ""]
    lines += [_file_line(path, settings.dtype) for path in sorted(folder.glob("*.safetensors"))]
    return "\n".join([*lines, "", "Hashes and versions: manifest.json", ""])


def _file_line(path: Path, dtype: str) -> str:
    dtype = dtype if path.stem in ("discriminator", "generator") else "float32"
    return f"- {path.name}: {path.stat().st_size:,} bytes, {dtype}"


def _result_line(row: "pd.Series[Any]") -> str:
    labels = "all labels" if row["protocol"] == "all" else f"{row['protocol']} labels per class"
    card = f", run card {row['card']}" if row["card"] else ""
    return (
        f"- {row['dataset']}, {labels}, {method_name(row)}: {row['metric'].replace('_', ' ')} {row['value']:.2f} "
        f"± {row['uncertainty']:.2f} ({row['uncertainty_type']}, n = {row['n']}), {row['date']}, {row['device']}{card}"
    )

"""What an experiment found, and its folder on disk: pictures, tables, figures, z, and a manifest of what made it."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evalkit.artifacts import MANIFEST, finish, locked, new_manifest, read_manifest, write_json
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.latent.gan import FrozenGAN

KIND = "finding"


@dataclass(frozen=True)
class Picture:
    """A file of the finding, as bytes, with the title that a gallery gives it."""

    title: str
    content: bytes


@dataclass(frozen=True)
class Finding:
    """What an experiment found.

    Attributes:
        verb: the command, e.g. "walk".
        settings: all that was chosen: seeds, counts, options.
        pictures: file name (PNG or GIF) -> picture.
        figures: measured numbers, for figures.json.
        tables: file name without suffix -> table, for a CSV each.
        arrays: file name without suffix -> array, for a .npy each; "z" holds the z shown, in the pictures' order.
        documents: file name without suffix -> JSON value, for a .json each.
    """

    verb: str
    settings: dict[str, Any]
    pictures: dict[str, Picture]
    figures: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)


def save(finding: Finding, gan: FrozenGAN, target: Path) -> Path:
    """Writes the finding as the folder `target`, whole or not at all, in place of an earlier finding.

    Raises:
        EvalkitError: there is something else at `target`.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        try:
            read_manifest(target, KIND)
        except ArtifactError:
            raise EvalkitError(
                f"{target}: there, and not a finding of evalkit latent, so it is not replaced; give another --out"
            ) from None
    with locked(target):
        building = target.with_name(target.name + ".partial")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        _write(finding, building)
        about = {"gan": gan.name, "recipe": gan.recipe.name, "class": gan.label}
        manifest = new_manifest(KIND, settings=about | finding.settings, made_from=gan.made_from)
        titles = {name: picture.title for name, picture in finding.pictures.items()}
        finish(building, target, manifest | {"verb": finding.verb, "pictures": titles})
    return target


def _write(finding: Finding, building: Path) -> None:
    for name, picture in finding.pictures.items():
        (building / name).write_bytes(picture.content)
    for name, table in finding.tables.items():
        table.to_csv(building / f"{name}.csv", index=False, lineterminator="\n", float_format="%.6g")
    for name, array in finding.arrays.items():
        np.save(building / f"{name}.npy", array)
    for name, document in ({"figures": finding.figures} | finding.documents).items():
        write_json(building / f"{name}.json", document)


@dataclass(frozen=True)
class GalleryPicture:
    """A picture for a report: `path` (PNG or GIF), with a title that names the GAN and what is shown."""

    title: str
    path: Path


def gallery(folder: Path) -> list[GalleryPicture]:
    """The pictures of the findings in `folder` (a workspace's `latent`, or one finding), by name; broken ones left out.

    What an HTML report shows: each title says which GAN and what.
    """
    found = []
    for place in sorted({path.parent for path in [*folder.glob(MANIFEST), *folder.glob(f"*/{MANIFEST}")]}):
        try:
            manifest = read_manifest(place, KIND)
        except ArtifactError:
            continue
        gan = manifest["settings"]["gan"]
        found += [GalleryPicture(f"{gan}: {title}", place / name) for name, title in manifest["pictures"].items()]
    return found

"""The result of an experiment and its folder on disk: images, tables, measurements, z, and a manifest.

Also how experiments show images: contact sheets with numbers, rows with captions, looped GIFs.
"""

import io
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from evalkit.artifacts import MANIFEST, new_manifest, read_manifest, safe_name, write_artifact, write_json
from evalkit.errors import ArtifactError, EvalkitError, printable
from evalkit.latent.model import FrozenGAN

logger = logging.getLogger(__name__)

KIND = "experiment"
_IMAGE_SUFFIXES = (".png", ".gif")


@dataclass(frozen=True)
class ExperimentManifest:
    """What the manifest of an experiment says.

    Attributes:
        command: the command of `evalkit latent`.
        gan: name of the GAN; `recipe` and `label` are its recipe's name and the class generated.
        images: file name -> title in a gallery; every file is in the folder of the manifest.
        sha256: file name -> hash, of all files.
        settings: the experiment's own, e.g. seeds and counts.
    """

    command: str
    gan: str
    recipe: str
    label: int | None
    images: dict[str, str]
    settings: dict[str, Any]
    sha256: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "ExperimentManifest":
        """What the manifest in `folder` says.

        Raises:
            ArtifactError: none there, or one that names files elsewhere or has other fields.
        """
        try:
            manifest = read_manifest(folder, KIND)
            settings = dict(manifest["settings"])
            gan, recipe, label = (settings.pop(key) for key in ("gan", "recipe", "class"))
            command, images = manifest["command"], dict(manifest["images"])
            hashes = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ArtifactError(f"{folder / MANIFEST}: not that of an experiment; run it again") from None
        texts = [gan, recipe, command, *images.values()]
        if any(not isinstance(each, str) for each in texts) or not (label is None or type(label) is int):
            raise ArtifactError(f"{folder / MANIFEST}: not that of an experiment; run it again")
        for name in images:
            if not safe_name(name, "image").endswith(_IMAGE_SUFFIXES) or name not in hashes:
                raise ArtifactError(f"{folder / MANIFEST}: lists {name!r}, expected images of its own; run it again")
        return cls(command, gan, recipe, label, images, settings, hashes)

    def stored_settings(self) -> dict[str, Any]:
        """The settings as the manifest has them."""
        return {"gan": self.gan, "recipe": self.recipe, "class": self.label} | self.settings


@dataclass(frozen=True)
class RenderedImage:
    """An image file as bytes, with its title in a gallery."""

    title: str
    content: bytes


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment shows and measures.

    Attributes:
        command: the command of `evalkit latent`, e.g. "walk".
        settings: everything that was chosen: seeds, counts, options.
        images: file name (PNG or GIF) -> image.
        measurements: measured numbers, for measurements.json.
        tables: file name without suffix -> table, for a CSV each.
        arrays: file name without suffix -> array, for a .npy each; "z" holds the z shown, in the order of the images.
        documents: file name without suffix -> JSON value, for a .json each.
    """

    command: str
    settings: dict[str, Any]
    images: dict[str, RenderedImage]
    measurements: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)


def save_experiment(result: ExperimentResult, gan: FrozenGAN, target: Path) -> Path:
    """Writes the result as the folder `target`, whole or not at all, in place of an earlier result.

    Raises:
        EvalkitError: there is something else at `target`.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        try:
            read_manifest(target, KIND)
        except ArtifactError:
            raise EvalkitError(
                f"{target}: exists and is not the folder of an experiment, so it is not replaced; give another --out"
            ) from None
    titles = {name: image.title for name, image in result.images.items()}
    about = ExperimentManifest(result.command, gan.name, gan.recipe.name, gan.label, titles, result.settings)
    settings = about.stored_settings()
    with write_artifact(target, settings=settings, made_from=gan.made_from) as artifact:
        _write(result, artifact.path)
        manifest = new_manifest(KIND, settings=settings, made_from=gan.made_from)
        artifact.finish(manifest | {"command": about.command, "images": about.images})
    return target


def _write(result: ExperimentResult, building: Path) -> None:
    for name, image in result.images.items():
        (building / name).write_bytes(image.content)
    for name, table in result.tables.items():
        table.to_csv(building / f"{name}.csv", index=False, lineterminator="\n", float_format="%.6g")
    for name, array in result.arrays.items():
        np.save(building / f"{name}.npy", array)
    for name, document in ({"measurements": result.measurements} | result.documents).items():
        write_json(building / f"{name}.json", document)


@dataclass(frozen=True)
class GalleryImage:
    """An image for a report: `path` (PNG or GIF) and its hash, with a title that names the GAN and what is shown."""

    title: str
    path: Path
    sha256: str


def gallery(folder: Path) -> list[GalleryImage]:
    """The images of the experiments in `folder` (a workspace's `latent`, or one experiment), by name.

    Experiments whose files are broken, or whose manifest lists files elsewhere, are left out.
    """
    images = []
    for place in sorted({path.parent for path in [*folder.glob(MANIFEST), *folder.glob(f"*/{MANIFEST}")]}):
        try:
            about = ExperimentManifest.read(place)
        except ArtifactError as error:
            logger.warning("left out: %s", printable(str(error)))
            continue
        images += [
            GalleryImage(printable(f"{about.gan}: {title}"), place / name, about.sha256[name])
            for name, title in about.images.items()
        ]
    return images


_MARGIN = 4
_TEXT = 12  # height of a line of the built-in font, in pixels
_SIDE = 64  # images are enlarged, pixel by pixel, to about this side


@dataclass(frozen=True)
class Row:
    """Images in one line under a caption: uint8 (n, H, W, C)."""

    caption: str
    images: np.ndarray


def enlarge(image: np.ndarray, *, side: int = _SIDE) -> Image.Image:
    """uint8 (H, W, C) as an RGB image, each pixel a square, so that it is about `side` wide."""
    times = max(1, round(side / image.shape[1]))
    rgb = Image.fromarray(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)
    return rgb.resize((rgb.width * times, rgb.height * times), Image.Resampling.NEAREST)


def contact_sheet(images: np.ndarray, *, columns: int = 10, first: int = 0) -> Image.Image:
    """A contact sheet: uint8 (n, H, W, C) in lines of `columns`, each image with its number below."""
    cells = [enlarge(image) for image in images]
    wide, high = cells[0].width + _MARGIN, cells[0].height + _TEXT + _MARGIN
    canvas = Image.new("RGB", (wide * min(columns, len(cells)) + _MARGIN, high * -(-len(cells) // columns)), "white")
    draw = ImageDraw.Draw(canvas)
    for index, cell in enumerate(cells):
        left, top = _MARGIN + index % columns * wide, index // columns * high
        canvas.paste(cell, (left, top))
        draw.text((left + cell.width // 2, top + cell.height + 1), str(first + index), fill="black", anchor="ma")
    return canvas


def captioned_rows(rows: list[Row]) -> Image.Image:
    """Rows of images, each under its caption; a row without a caption follows closely."""
    lines = [(row.caption, [enlarge(image) for image in row.images]) for row in rows]
    width = max(
        [sum(cell.width + _MARGIN for cell in cells) for _, cells in lines] + [_text_width(text) for text, _ in lines]
    )
    height = sum(_caption(text) + max(cell.height for cell in cells) + _MARGIN for text, cells in lines)
    canvas = Image.new("RGB", (width + _MARGIN, height), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for text, cells in lines:
        draw.text((_MARGIN, top + 1), text, fill="black")
        top += _caption(text)
        for index, cell in enumerate(cells):
            canvas.paste(cell, (_MARGIN + index * (cell.width + _MARGIN), top))
        top += max(cell.height for cell in cells) + _MARGIN
    return canvas


def _caption(text: str) -> int:
    return _TEXT + _MARGIN if text else 0


def _text_width(text: str) -> int:
    return int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text)) + 2 * _MARGIN


def png(image: Image.Image) -> bytes:
    """The image as PNG bytes."""
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    return file.getvalue()


def gif(images: np.ndarray, *, milliseconds: int = 80) -> bytes:
    """uint8 (n, H, W, C) as a GIF that loops forever."""
    frames = [enlarge(image, side=128) for image in images]
    file = io.BytesIO()
    frames[0].save(
        file, format="gif", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=False
    )
    return file.getvalue()

"""What an experiment found, and its folder on disk: images, tables, figures, z, and a manifest of what made it.

Images of images: contact sheets with numbers, rows with captions, looped GIFs.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from evalkit.artifacts import MANIFEST, new_manifest, read_manifest, write_artifact, write_json
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.latent.model import FrozenGAN

KIND = "finding"


@dataclass(frozen=True)
class RenderedImage:
    """A file of the finding, as bytes, with the title that a gallery gives it."""

    title: str
    content: bytes


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment found.

    Attributes:
        verb: the command, e.g. "walk".
        settings: all that was chosen: seeds, counts, options.
        images: file name (PNG or GIF) -> image.
        figures: measured numbers, for figures.json.
        tables: file name without suffix -> table, for a CSV each.
        arrays: file name without suffix -> array, for a .npy each; "z" holds the z shown, in the images' order.
        documents: file name without suffix -> JSON value, for a .json each.
    """

    command: str
    settings: dict[str, Any]
    images: dict[str, RenderedImage]
    figures: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    documents: dict[str, Any] = field(default_factory=dict)


def save(finding: ExperimentResult, gan: FrozenGAN, target: Path) -> Path:
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
    settings = {"gan": gan.name, "recipe": gan.recipe.name, "class": gan.label} | finding.settings
    with write_artifact(target, settings=settings, made_from=gan.made_from) as artifact:
        _write(finding, artifact.path)
        manifest = new_manifest(KIND, settings=settings, made_from=gan.made_from)
        titles = {name: image.title for name, image in finding.images.items()}
        artifact.finish(manifest | {"verb": finding.command, "images": titles})
    return target


def _write(finding: ExperimentResult, building: Path) -> None:
    for name, image in finding.images.items():
        (building / name).write_bytes(image.content)
    for name, table in finding.tables.items():
        table.to_csv(building / f"{name}.csv", index=False, lineterminator="\n", float_format="%.6g")
    for name, array in finding.arrays.items():
        np.save(building / f"{name}.npy", array)
    for name, document in ({"figures": finding.figures} | finding.documents).items():
        write_json(building / f"{name}.json", document)


@dataclass(frozen=True)
class GalleryImage:
    """An image for a report: `path` (PNG or GIF), with a title that names the GAN and what is shown."""

    title: str
    path: Path


def gallery(folder: Path) -> list[GalleryImage]:
    """The images of the findings in `folder` (a workspace's `latent`, or one finding), by name; broken ones left out.

    What an HTML report shows: each title says which GAN and what.
    """
    found = []
    for place in sorted({path.parent for path in [*folder.glob(MANIFEST), *folder.glob(f"*/{MANIFEST}")]}):
        try:
            manifest = read_manifest(place, KIND)
        except ArtifactError:
            continue
        gan = manifest["settings"]["gan"]
        found += [GalleryImage(f"{gan}: {title}", place / name) for name, title in manifest["images"].items()]
    return found


_MARGIN = 4
_TEXT = 12  # height of a line of the built-in font, in pixels
_SIDE = 64  # images are enlarged, pixel by pixel, to at least about this side


@dataclass(frozen=True)
class Row:
    """A line of images under a caption: uint8 (n, H, W, C)."""

    caption: str
    images: np.ndarray


def enlarged(picture: np.ndarray, *, side: int = _SIDE) -> Image.Image:
    """uint8 (H, W, C) as an RGB image, each pixel a square, so that it is about `side` wide."""
    image = Image.fromarray(np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture)
    times = max(1, round(side / picture.shape[1]))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def sheet(images: np.ndarray, *, columns: int = 10, first: int = 0) -> Image.Image:
    """A contact sheet: uint8 (n, H, W, C) in lines of `columns`, each image with its number below."""
    cells = [enlarged(image) for image in images]
    wide, high = cells[0].width + _MARGIN, cells[0].height + _TEXT + _MARGIN
    canvas = Image.new("RGB", (wide * min(columns, len(cells)) + _MARGIN, high * -(-len(cells) // columns)), "white")
    draw = ImageDraw.Draw(canvas)
    for index, cell in enumerate(cells):
        left, top = _MARGIN + index % columns * wide, index // columns * high
        canvas.paste(cell, (left, top))
        draw.text((left + cell.width // 2, top + cell.height + 1), str(first + index), fill="black", anchor="ma")
    return canvas


def captioned(rows: list[Row]) -> Image.Image:
    """Rows of images, each under its caption; one without a caption follows closely."""
    lines = [(row.caption, [enlarged(image) for image in row.images]) for row in rows]
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
    """The image as PNG."""
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    return file.getvalue()


def gif(images: np.ndarray, *, milliseconds: int = 80) -> bytes:
    """uint8 (n, H, W, C) as a GIF that starts over for ever."""
    frames = [enlarged(image, side=128) for image in images]
    file = io.BytesIO()
    frames[0].save(
        file, format="gif", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=False
    )
    return file.getvalue()

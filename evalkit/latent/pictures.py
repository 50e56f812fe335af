"""Pictures of pictures: contact sheets with numbers, rows with captions, looped GIFs."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

_MARGIN = 4
_TEXT = 12  # height of a line of the built-in font, in pixels
_SIDE = 64  # pictures are enlarged, pixel by pixel, to at least about this side


@dataclass(frozen=True)
class Row:
    """A line of pictures under a caption: uint8 (n, H, W, C)."""

    caption: str
    pictures: np.ndarray


def enlarged(picture: np.ndarray, *, side: int = _SIDE) -> Image.Image:
    """uint8 (H, W, C) as an RGB picture, each pixel a square, so that it is about `side` wide."""
    image = Image.fromarray(np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture)
    times = max(1, round(side / picture.shape[1]))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def sheet(pictures: np.ndarray, *, columns: int = 10, first: int = 0) -> Image.Image:
    """A contact sheet: uint8 (n, H, W, C) in lines of `columns`, each picture with its number below."""
    cells = [enlarged(picture) for picture in pictures]
    wide, high = cells[0].width + _MARGIN, cells[0].height + _TEXT + _MARGIN
    canvas = Image.new("RGB", (wide * min(columns, len(cells)) + _MARGIN, high * -(-len(cells) // columns)), "white")
    draw = ImageDraw.Draw(canvas)
    for index, cell in enumerate(cells):
        left, top = _MARGIN + index % columns * wide, index // columns * high
        canvas.paste(cell, (left, top))
        draw.text((left + cell.width // 2, top + cell.height + 1), str(first + index), fill="black", anchor="ma")
    return canvas


def captioned(rows: list[Row]) -> Image.Image:
    """Rows of pictures, each under its caption; one without a caption follows closely."""
    lines = [(row.caption, [enlarged(picture) for picture in row.pictures]) for row in rows]
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
    """The picture as PNG."""
    file = io.BytesIO()
    image.save(file, format="png", optimize=True)
    return file.getvalue()


def gif(pictures: np.ndarray, *, milliseconds: int = 80) -> bytes:
    """uint8 (n, H, W, C) as a GIF that starts over for ever."""
    frames = [enlarged(picture, side=128) for picture in pictures]
    file = io.BytesIO()
    frames[0].save(
        file, format="gif", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=False
    )
    return file.getvalue()

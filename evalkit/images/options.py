"""Settings of prepare and dedup: each default, its help and its choices stand here once. Standard library only."""

from dataclasses import dataclass
from typing import Literal, get_args

from evalkit.errors import EvalkitError
from evalkit.settings import setting

Filter = Literal["antialias", "bilinear-noaa"]
Decode = Literal["scaled", "exact"]
Crop = Literal["center", "faces"]
SourceKind = Literal["parquet", "webdataset", "tar", "downsampled-imagenet", "npz", "lsun", "list", "folder"]
DedupMode = Literal["autoencoder", "exact", "perceptual"]
FILTERS: tuple[str, ...] = get_args(Filter)
DECODES: tuple[str, ...] = get_args(Decode)


@dataclass(frozen=True)
class ResizeOptions:
    """Resizes the shorter side to `size`, then crops the center (Radford et al. 2016, sec. 4.3).

    Attributes:
        size: side of the square in pixels.
        filter: "antialias" is Pillow's BILINEAR, whose support grows with the reduction; "bilinear-noaa" samples four
            neighbors whatever the reduction, as OpenCV's INTER_LINEAR and the authors' release do.
        decode: "scaled" decodes a large JPEG at 1/2, 1/4 or 1/8 of its size, but at no less than twice `size`. It is
            twice as fast, and differs from "exact" by 0.5 of 255 on average (benchmarks/results/prepare-speed.csv).
            Only with "antialias".
    """

    size: int = 32
    filter: str = "antialias"
    decode: str = "exact"

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise EvalkitError(f"no filter {self.filter!r}; choose from {', '.join(FILTERS)}")
        if self.decode not in DECODES:
            raise EvalkitError(f"no decoding {self.decode!r}; choose from {', '.join(DECODES)}")
        if self.decode == "scaled" and self.filter != "antialias":
            raise EvalkitError(f"scaled decoding averages pixels, which {self.filter} must not; choose --decode exact")
        if not 1 <= self.size <= 4096:
            raise EvalkitError(f"size {self.size}: expected 1 to 4096 pixels")


@dataclass(frozen=True)
class FaceOptions:
    """Which faces to crop, and how much of their surroundings.

    Attributes:
        score: least weight of the cascade's last stage.
        margin: added on each side, as a fraction of the box.
        smallest: side of the smallest box in pixels; smaller faces would be enlarged a lot.
    """

    score: float = 3.0
    margin: float = 0.0
    smallest: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 2 or self.smallest < 20:  # the cascade's own window is 24 pixels
            raise EvalkitError(f"faces: margin {self.margin}, smallest {self.smallest}; expected 0 to 2, 20 or more")


@dataclass(frozen=True)
class PrepareOptions:
    """How `prepare` reads and resizes images. Named data sets take `size`, `filter`, `replace` and `download` only."""

    size: int | None = setting(
        None, "Side of the square images in pixels [default: 32, or the size of the named data set].", minimum=8
    )
    filter: Filter = setting(
        ResizeOptions.filter, "Resampling filter; bilinear-noaa samples as the paper's release does."
    )
    decode: Decode | None = setting(
        None, "scaled decodes large JPEGs at a fraction of their size [default: scaled where the filter allows it]."
    )
    crop: Crop = setting(
        "center", "One center crop per image, or one crop per face that OpenCV's detector finds (extra [faces])."
    )
    face_score: float = setting(FaceOptions.score, "Least score of a face.")
    face_margin: float = setting(FaceOptions.margin, "Margin added to each side of a face, as a fraction of its box.")
    face_smallest: int = setting(FaceOptions.smallest, "Side of the smallest face in pixels.")
    workers: int | None = setting(None, "Number of decoding processes [default: one per core].", minimum=1)
    strict: bool = setting(
        False, "Stop at an image that cannot be read, and at a layout that looks odd, instead of saying so."
    )
    source_kind: SourceKind | None = setting(None, "Format of the source [default: detected from the path].")
    split: str = setting(
        "",
        "Split of all images (e.g. test), FOLDER=SPLIT,FOLDER=SPLIT, or none: no folder is a split [default: by the "
        "names of folders and files].",
        metavar="SPLIT",
    )
    labels_from: str = setting(
        "",
        "Where labels are: folder (the first below the split), parent (the image's own folder), name (cat.17.jpg), "
        "none, a Parquet column, or a file of paths and labels [default: as found].",
        metavar="PLACE",
    )
    replace: bool = setting(False, "Overwrite an image set made from another source or with other settings.")
    download: bool = setting(True, "Download the missing files of a named data set.")

    @property
    def faces(self) -> FaceOptions | None:
        """The settings of the face detector, or None for a center crop."""
        return FaceOptions(self.face_score, self.face_margin, self.face_smallest) if self.crop == "faces" else None

    def resize(self) -> ResizeOptions:
        """The size and the decoding of the user's own files."""
        decode = self.decode or ("scaled" if self.filter == "antialias" else "exact")
        return ResizeOptions(self.size or ResizeOptions.size, self.filter, decode)


@dataclass(frozen=True)
class DedupOptions:
    """What counts as a duplicate, and what becomes of an image set that is in the way."""

    mode: DedupMode = setting(
        "autoencoder",
        "autoencoder: the paper's hash; exact: equal pixels; perceptual: a cosine hash that needs no training.",
    )
    distance: int | None = setting(
        None, "Bits in which two hashes may differ [default: depends on the mode].", minimum=0, maximum=16
    )
    confirm: bool = setting(True, "Compare the images, too, before two with similar hashes count as duplicates.")
    against_split: str = setting("test", "Split of the --against image set to compare with.")
    seed: int = setting(0, "Seed of the autoencoder and of the sample of judged pairs.")
    replace: bool = setting(False, "Overwrite an image set of that name made with other settings.")

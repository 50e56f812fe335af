"""Pretrained weights: the index of released ones, download, import from files, and `pretrained:NAME`.

The settings of an import stand here, where the command line reads them without loading torch.
"""

from dataclasses import dataclass
from typing import Literal

from evalkit.settings import setting


@dataclass(frozen=True)
class ImportOptions:
    """How `import_weights` takes weights from files; `notes` are for the card, one line each."""

    partial: bool = setting(False, "Take the complete layers of an incomplete release: the discriminator's first ones.")
    layers: str = setting("", "Take exactly these conv layers of a release's discriminator.", metavar="conv1,conv2,…")
    source: str = setting("not stated", "For the card: where the weights are from.")
    licence: str = setting("not stated", "For the card: their licence.")
    notes: tuple[str, ...] = ()
    dtype: Literal["float32", "float16"] = setting(
        "float32", "Floating-point type of the files written: float16 is half the size."
    )
    source_batch_norm: bool = setting(
        False,
        "Add batch-norm statistics of the images trained on: `extract --batch-norm source` needs no images then.",
    )
    replace: bool = setting(False, "Overwrite other weights of that name.")

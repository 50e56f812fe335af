"""pixels: the pictures themselves in [0, 1], the baseline that any encoder should beat."""

from collections.abc import Sequence

from torch import Tensor, nn

from evalkit.features.encoders.encoder import BatchNorm, Encoder, Network, Preprocessing, Reduce
from evalkit.workspace import Workspace


def pixels_encoder(rest: str, workspace: Workspace) -> Encoder:
    """Pictures of any size as one vector: row by row, pixel by pixel, red, green, blue."""
    return Encoder("pixels", Pixels(), Preprocessing())


class Pixels(Network):
    """(N, 3, h, w) -> one layer "pixels", (N, h x w x 3)."""

    default = ("pixels",)

    def forward(
        self, pictures: Tensor, layers: Sequence[str] | None = None, reduce: Reduce | None = None
    ) -> dict[str, Tensor]:
        rows = pictures.permute(0, 2, 3, 1).flatten(1)
        return {"pixels": reduce("pixels", rows) if reduce else rows}

    def norms(self) -> dict[str, BatchNorm]:
        return {}

    def lowered(self, layers: Sequence[str], *, precision: str, sample: Tensor) -> nn.Module:
        return self  # bf16 would round the pixels

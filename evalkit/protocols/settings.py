"""What a protocol is: which labels are drawn, where C is chosen, what is repeated. Light to import."""

from dataclasses import dataclass, replace

from evalkit.errors import EvalkitError

RELEASE_GRID = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)  # the release's SVHN script
GRIDS = ("extended", "release")
# differs from the paper: 10 and 100 draws whatever their size.
_FEW_ROWS = 2_000  # draws of more rows are repeated less by default: their cost grows with the cube of the rows


@dataclass(frozen=True)
class Protocol:
    """How a figure is measured.

    Attributes:
        labels_per_class: None for all training labels, else the labels of each draw.
        grid: `extended` (the release's C values, going on where validation picks an end) or `release`.
        validation: rows set aside for the choice of C; at most a fifth of the training rows.
        select_draws: draws that choose C (10 in the release).
        repeats: fresh draws that are tested (100 in the release).
        seed: of the validation split and the draws.

    Raises:
        EvalkitError: counts below one or an unknown grid.
    """

    labels_per_class: int | None = None
    grid: str = "extended"
    validation: int = 10_000
    select_draws: int | None = None
    repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for key in ("labels_per_class", "validation", "select_draws", "repeats"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise EvalkitError(f"protocol: {key} = {value}, expected at least 1")
        if self.grid not in GRIDS:
            raise EvalkitError(f"protocol: grid {self.grid!r}, expected {' or '.join(GRIDS)}")

    @property
    def name(self) -> str:
        """As figures carry it: "all" or the number of labels a class."""
        return "all" if self.labels_per_class is None else str(self.labels_per_class)

    def with_counts(self, classes: int) -> "Protocol":
        """The protocol with its numbers of draws filled in: the release's, or fewer where a draw is large."""
        few = (self.labels_per_class or 0) * classes <= _FEW_ROWS
        return replace(
            self, select_draws=self.select_draws or (10 if few else 3), repeats=self.repeats or (100 if few else 10)
        )

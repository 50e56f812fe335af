"""How to run a training, as opposed to what to train (the recipe)."""

from dataclasses import dataclass

from evalkit.errors import EvalkitError


@dataclass(frozen=True)
class TrainOptions:
    """Of these only `seed` and `precision` change the weights.

    Raises:
        EvalkitError: a number below its least sensible value.
    """

    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    checkpoint_minutes: float = 10.0  # time between checkpoints
    checkpoint_updates: int = 0  # D updates between checkpoints besides; 0: by time alone
    keep: int = 3  # checkpoints kept, the latest ones
    milestones: int = 0  # checkpoints at multiples of this many D updates are kept for good
    log_updates: int = 20  # D updates between lines of metrics.csv

    def __post_init__(self) -> None:
        for key, smallest in {"seed": 0, "checkpoint_minutes": 0, "keep": 1, "milestones": 0, "log_updates": 1}.items():
            if getattr(self, key) < smallest:
                raise EvalkitError(f"training: {key} = {getattr(self, key)}, expected at least {smallest}")

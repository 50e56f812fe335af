"""How to run a training, as opposed to what to train (the recipe)."""

from dataclasses import dataclass
from typing import Literal

from evalkit.errors import EvalkitError

ON_COLLAPSE = ("stop", "rewind")


@dataclass(frozen=True)
class TrainOptions:
    """Of these only `seed`, `precision`, `sync_batch_norm` and a rewind change the weights.

    Seed and precision belong to the run; the others may change when it goes on, and its checkpoints say so.

    Raises:
        EvalkitError: a number below its least sensible value.
    """

    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False  # torch.compile the networks: slow to start, faster on GPUs
    sync_batch_norm: bool = False  # statistics over all processes; else each normalises its share of the minibatch
    checkpoint_minutes: float = 10.0  # time between checkpoints
    checkpoint_updates: int = 0  # D updates between checkpoints besides; 0: by time alone
    keep: int = 3  # checkpoints kept, the latest ones
    milestones: int = 0  # checkpoints at multiples of this many D updates are kept for good
    log_updates: int = 20  # D updates between lines of metrics.csv
    nnd_samples: int = 0  # samples for the nearest-neighbour distance at each checkpoint; 0: not measured
    tensorboard: bool = False  # the lines of metrics.csv as TensorBoard events, too
    on_collapse: Literal["stop", "rewind"] = "stop"

    def __post_init__(self) -> None:
        smallest = {"seed": 0, "checkpoint_minutes": 0, "keep": 1, "milestones": 0, "log_updates": 1, "nnd_samples": 0}
        for key, least in smallest.items():
            if getattr(self, key) < least:
                raise EvalkitError(f"training: {key} = {getattr(self, key)}, expected at least {least}")
        if self.on_collapse not in ON_COLLAPSE:
            raise EvalkitError(f"training: on_collapse = {self.on_collapse!r}, expected {' or '.join(ON_COLLAPSE)}")

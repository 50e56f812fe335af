"""What `evalkit reproduce` can reproduce."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` measures: one trained encoder and its baselines on one data set under some protocols."""

    recipe: str
    dataset: str
    baselines: tuple[str, ...]
    labels_per_class: tuple[int | None, ...]


REPRODUCTIONS = {
    "digits": Reproduction("digits", "digits", ("random:digits", "pixels"), (None, 10)),
    "cifar10": Reproduction("imagenet32", "cifar10", ("random:imagenet32", "pixels"), (None, 400)),
    "svhn": Reproduction("svhn", "svhn", ("random:svhn", "pixels"), (100,)),
}

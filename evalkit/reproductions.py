"""What `evalkit reproduce` can reproduce."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reproduction:
    """What `reproduce` measures: one trained encoder and its baselines on one data set under some protocols.

    `shipped` names weights that come with evalkit, used where nobody asks for training; empty where there are none.
    """

    recipe: str
    dataset: str
    baselines: tuple[str, ...]
    labels_per_class: tuple[int | None, ...]
    shipped: str = ""


REPRODUCTIONS = {
    "digits": Reproduction("digits", "digits", ("random:digits", "pixels"), (None, 10)),
    "cifar10": Reproduction("imagenet32", "cifar10", ("random:imagenet32", "pixels"), (None, 400), "imagenet32-tiny"),
    "svhn": Reproduction("svhn", "svhn", ("random:svhn", "pixels"), (100,)),
}

"""Reproduction: everything that a table of the paper needs, from images to results, as far as it is missing.

Above images, gan, features and evaluation, whose functions it calls in turn. Not named `reproduce`: a module of that
name would hide the function `evalkit.reproduce`.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from evalkit.errors import EvalkitError
from evalkit.evaluation.evaluate import evaluate
from evalkit.evaluation.protocol import REPRODUCTIONS, Protocol
from evalkit.evaluation.record import recorded_result
from evalkit.features.extract import extract
from evalkit.gan.recipes import TrainOptions
from evalkit.gan.train import train_gan
from evalkit.images import prepare_from
from evalkit.pretrained.registry import shipped
from evalkit.report.tables import compare_with_published, original
from evalkit.results import Result
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)


def reproduce(
    name: str,
    *,
    home: Workspace | Path | str,
    data: str | None = None,
    images: str | None = None,
    encoder: str | None = None,
    train: bool = False,
    baselines: bool = True,
    device: str = "auto",
    download: bool = True,
    on_result: Callable[[Result], None] = lambda result: None,
) -> pd.DataFrame:
    """Measures what is missing of a table of the paper, and returns that table beside the published one.

    It prepares the images, trains or loads the encoder, extracts features of it and of the baselines, and measures
    them under the table's protocols. Without an encoder it takes the weights shipped for the table; if there are none,
    or if asked to, it trains. Results already in the workspace are not measured again.

    Args:
        name: a name in `evalkit.evaluation.protocol.REPRODUCTIONS`.
        home: the workspace.
        data: source of the data set's images (a folder, Parquet files), instead of torchvision's download.
        images: the image set to train on, instead of the recipe's.
        encoder: a trained encoder, instead of the shipped weights or of training one.
        train: train even if there are shipped weights.
        baselines: measure random weights and pixels too.
        on_result: called with each result as soon as it is measured.

    Raises:
        EvalkitError: an unknown name (the message lists the names), or what the steps raise.
    """
    if name not in REPRODUCTIONS:
        raise EvalkitError(f"{name}: no such reproduction; choose {', '.join(REPRODUCTIONS)}")
    workspace, table = Workspace.of(home), REPRODUCTIONS[name]
    dataset = prepare_from(workspace, data, table.dataset).name if data else table.dataset
    if encoder is None and not (train or images) and table.shipped in {path.name for path in shipped()}:
        encoder = f"pretrained:{table.shipped}"
    if encoder is None:
        options = TrainOptions(device=device)
        encoder = str(train_gan(images, table.recipe, home=workspace, options=options, download=download))
    for each in (encoder, *(table.baselines if baselines else ())):
        features = extract(dataset, each, home=workspace, device=device, download=download)
        for labels_per_class in table.labels_per_class:
            protocol = Protocol(labels_per_class=labels_per_class)
            if recorded_result(features, protocol, results=workspace.results) is None:
                logger.info("protocol: %s", protocol.name)
                on_result(evaluate(features, protocol, home=workspace, device=device).result)
    compared = compare_with_published(workspace.results)
    return compared[compared["dataset"].map(original) == name]

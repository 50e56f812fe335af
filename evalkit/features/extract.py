"""extract: from an image set and an encoder to a feature set; bounded memory, resumable, one process or many."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from evalkit.artifacts import ArtifactWriter, already_built, new_manifest, write_artifact
from evalkit.batch_statistics import STATISTICS_BATCH
from evalkit.encoders import load_encoder
from evalkit.encoders.encoder import Encoder
from evalkit.features.augmentation import Augmentation
from evalkit.features.batchnorm import BatchNormMode
from evalkit.features.encoder_setup import ExtractionJob, list_layers, setup_encoder, variant
from evalkit.features.featureset import KIND, FeatureSet, Layer, load_features
from evalkit.features.pooling import LayerSelection, join
from evalkit.features.writer import RowsWriter, batches, create_rows, recorded
from evalkit.images import find_images, find_images_by_sha256
from evalkit.images.imageset import ImageSet
from evalkit.runtime import describe_device, joined, local_device, resolve_device, resolve_precision
from evalkit.workspace import Workspace

Say = Callable[[str], None]
_BATCH = {"cpu": 64, "cuda": 1024}  # images a pass: on a CPU, maps that stay in its cache; no effect on the features


def extract(
    images: ImageSet,
    encoder: Encoder,
    target: Path,
    *,
    layer_selection: LayerSelection = LayerSelection(),
    batch_norm: BatchNormMode | None = None,
    source_images: ImageSet | None = None,
    augmentation: Augmentation = Augmentation(),
    dtype: str = "float16",
    device: str = "auto",
    precision: str = "auto",
) -> FeatureSet:
    """Features of every image of `images`, written to `target`; an interrupted extraction goes on where it was.

    Under `torchrun` each process takes a share of the images; the arrays are the same, byte for byte.

    Args:
        images: images of a size that the encoder takes.
        encoder: from `load_encoder`. Its batch norms stay as they are: a copy's are set.
        target: the feature set's directory. One with equal settings and inputs is returned as it is.
        taps: which layers, pooled to which grid; by default the paper's.
        batch_norm: whose statistics normalise: `target`, `source`, `running`, `batch`; None:
            the encoder's own choice.
        source_images: the images that the encoder was trained on; `source` needs them, or an encoder that brings
            their statistics.
        views: copies of each image whose features are averaged; by default the image alone.
        dtype: float16 or float32 on disk.

    Raises:
        EvalkitError: images of another size, no such layer, outputs that are not finite or depend on the batch.
    """
    with joined(resolve_device(device)) as ranks:
        where, mode = local_device(resolve_device(device)), batch_norm or encoder.batch_norm
        job = ExtractionJob(
            images=images,
            encoder=encoder,
            layer_selection=layer_selection,
            augmentation=augmentation,
            mode=mode if encoder.network.batch_norms() else "",
            source_images=source_images,
            dtype=dtype,
            precision=resolve_precision(precision, where),
            device=where,
            ranks=ranks,
        )
        # a wrong source of statistics is an error even if the features exist
        existing = already_built(target, KIND, settings=job.settings, made_from=job.made_from, replace=True)
        if not ranks.objects(existing is not None)[0]:
            with _shared_building(target, job) as artifact:
                network, layers = setup_encoder(job, artifact)
                hashes = _write_rows(job, network, layers, artifact)
                if ranks.writes:
                    _finish(job, layers, artifact, hashes)
    return load_features(target)


@contextmanager
def _shared_building(target: Path, job: ExtractionJob) -> Iterator[ArtifactWriter]:
    """The artifact under construction, opened by the first process for all."""
    inputs = {"settings": job.settings, "made_from": job.made_from}
    if job.ranks.writes:
        with write_artifact(target, **inputs) as artifact:
            artifact.save(started=True)
            job.ranks.wait()
            yield artifact
    else:
        job.ranks.wait()
        yield ArtifactWriter(target, **inputs)
    job.ranks.wait()


def _write_rows(
    job: ExtractionJob, network: nn.Module, layers: list[Layer], artifact: ArtifactWriter
) -> dict[str, str]:
    """Computes this process's share of the rows that are not on disk yet and has them written; returns known hashes."""
    if job.ranks.writes:
        create_rows(artifact.path / "features.npy", (len(job.images), sum(x.length for x in layers)), job.dtype)
    job.ranks.wait()
    size = STATISTICS_BATCH if job.mode == "batch" else _BATCH[job.device.type]
    done = recorded(artifact.path)
    todo = [each for each in batches(list(job.images.splits.values()), len(job.images), size) if each not in done]
    bar = tqdm(
        total=len(job.images),
        initial=sum(end - first for first, end in done),
        unit="image",
        desc="features",
        disable=None if job.ranks.writes else True,
    )
    job.ranks.wait()  # no process records rows before all have read what is recorded
    with torch.inference_mode(), bar, RowsWriter(artifact.path, layers, job.images.name, rank=job.ranks.number) as out:
        for first, end in todo[job.ranks.number :: job.ranks.count]:
            out.put(_encoded(job, network, layers, job.encoder.preprocessing(job.tensor(first, end))), first)
            bar.update((end - first) * job.ranks.count)
    job.ranks.wait()
    return out.hashes


def _encoded(job: ExtractionJob, network: nn.Module, layers: list[Layer], images: Tensor) -> Tensor:
    """Rows of features, (n, D) in the type on disk, of images in the network's range (n, C, h, w)."""
    by_name, dtype = {layer.name: layer for layer in layers}, getattr(torch, job.dtype)

    def reduce(name: str, output: Tensor) -> Tensor:
        numbers = job.layer_selection(output, channels_last=by_name[name].channels_last)
        return numbers.to(dtype, copy=True)  # a view could be overwritten by the layers to come

    rows = [join(network(view, list(by_name), reduce), layers) for view in job.augmentation(images)]
    return rows[0] if len(rows) == 1 else torch.stack(rows).float().mean(0).to(dtype)


def _finish(job: ExtractionJob, layers: list[Layer], artifact: ArtifactWriter, hashes: dict[str, str]) -> None:
    np.save(artifact.path / "labels.npy", job.images.labels)
    for record in artifact.path.glob("rows-*.txt"):
        record.unlink()
    about = {
        "variant": variant(job.encoder, job.layer_selection, job.mode or None, job.augmentation),
        "preprocessing": job.encoder.preprocessing.as_dict(),
        "device": describe_device(job.device),
        "layers": [layer.as_dict() for layer in layers],
        "class_names": list(job.images.class_names),
        "splits": {name: list(rows) for name, rows in job.images.splits.items()},
    }
    artifact.finish(new_manifest(KIND, settings=job.settings, made_from=job.made_from) | about, hashes=hashes)


def extract_features(
    workspace: Workspace,
    dataset: str,
    encoder: str = "latest",
    *,
    layer_selection: LayerSelection = LayerSelection(),
    batch_norm: BatchNormMode | None = None,
    augmentation: Augmentation = Augmentation(),
    dtype: str = "float16",
    device: str = "auto",
    precision: str = "auto",
    download: bool = True,
    say: Say = lambda line: None,
) -> FeatureSet:
    """Features of a data set by an encoder, in the workspace as DATASET--ENCODER(--VARIANT)."""
    images = find_images(workspace, dataset, download=download, progress=True)
    found = load_encoder(encoder, home=workspace, download=download)
    say(f"images: {images.name} ({len(images):,} images)")
    say(f"encoder: {found.name}" + (f", {found.weights}" if found.weights else ""))
    say(f"images to tensors: {found.preprocessing.describe()}")
    source = find_images_by_sha256(workspace, found.images_sha256) if batch_norm == "source" else None
    parts = [images.name, found.name, *variant(found, layer_selection, batch_norm, augmentation)]
    target = workspace.path_of(KIND, "--".join(re.sub(r"[^\w.@+-]+", "-", part) for part in parts))
    features = extract(
        images,
        found,
        target,
        layer_selection=layer_selection,
        batch_norm=batch_norm,
        source_images=source,
        augmentation=augmentation,
        dtype=dtype,
        device=device,
        precision=precision,
    )
    workspace.mark_latest(target)
    return features


def encoder_layers(
    workspace: Workspace,
    dataset: str,
    encoder: str,
    layer_selection: LayerSelection,
    *,
    download: bool = True,
    say: Say = lambda line: None,
) -> list[tuple[Layer, tuple[int, ...], bool]]:
    """An encoder's layers for the data set's images (of its own size, where it takes one only): see `list_layers`."""
    found = load_encoder(encoder, home=workspace, download=download)
    say(f"encoder: {found.name}; images to tensors: {found.preprocessing.describe()}")
    if found.preprocessing.size:
        shape = (found.preprocessing.size, found.preprocessing.size, 3)
    else:
        shape = find_images(workspace, dataset, download=download, progress=True).images.shape[1:]
    return list_layers(found, torch.zeros(2, *shape, dtype=torch.uint8), layer_selection)

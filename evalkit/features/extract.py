"""extract: from an image set and an encoder to a feature set; bounded memory, resumable, one process or many."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from evalkit.artifacts import Building, building, new_manifest
from evalkit.encoders import find_encoder
from evalkit.encoders.encoder import Encoder
from evalkit.errors import EvalkitError
from evalkit.features.augmentation import Views
from evalkit.features.batchnorm import STATISTICS_BATCH, BatchNormMode
from evalkit.features.encoder_setup import Job, list_layers, ready_network, variant
from evalkit.features.featureset import KIND, FeatureSet, load_features
from evalkit.features.pooling import Layer, Taps, join
from evalkit.features.writer import RowsWriter, batches, create_rows, recorded
from evalkit.images import find_images, images_with_hash
from evalkit.images.imageset import ImageSet
from evalkit.pretrained.registry import find_pretrained
from evalkit.runtime import describe_device, joined, local_device, resolve_device, resolve_precision
from evalkit.workspace import Workspace

Say = Callable[[str], None]
_BATCH = {"cpu": 64, "cuda": 1024}  # pictures a pass: on a CPU, maps that stay in its cache; no effect on the features


def extract(
    images: ImageSet,
    encoder: Encoder,
    target: Path,
    *,
    taps: Taps = Taps(),
    batch_norm: BatchNormMode | None = None,
    source_images: ImageSet | None = None,
    views: Views = Views(),
    dtype: str = "float16",
    device: str = "auto",
    precision: str = "auto",
) -> FeatureSet:
    """Features of every picture of `images`, written to `target`; an interrupted extraction goes on where it was.

    Under `torchrun` each process takes a share of the pictures; the arrays are the same, byte for byte.

    Args:
        images: pictures of a size that the encoder takes.
        encoder: from `find_encoder`. Its batch norms stay as they are: a copy's are set.
        target: the feature set's directory. One with equal settings and inputs is returned as it is.
        taps: which layers, pooled to which grid; by default the paper's.
        batch_norm: whose statistics normalise: `target`, `source`, `running`, `batch`; None:
            the encoder's own choice.
        source_images: the pictures that the encoder was trained on; `source` needs them, or an encoder that brings
            their statistics.
        views: copies of each picture whose features are averaged; by default the picture alone.
        dtype: float16 or float32 on disk.

    Raises:
        EvalkitError: pictures of another size, no such layer, outputs that are not finite or depend on the batch.
    """
    with joined(resolve_device(device)) as ranks:
        where, mode = local_device(resolve_device(device)), batch_norm or encoder.batch_norm
        job = Job(
            images=images,
            encoder=encoder,
            taps=taps,
            views=views,
            mode=mode if encoder.network.norms() else "",
            source_images=source_images,
            dtype=dtype,
            precision=resolve_precision(precision, where),
            device=where,
            ranks=ranks,
        )
        if not ranks.objects(_already_there(target, job))[0]:
            with _shared_building(target, job) as artifact:
                network, layers = ready_network(job, artifact)
                hashes = _write_rows(job, network, layers, artifact)
                if ranks.writes:
                    _finish(job, layers, artifact, hashes)
    return load_features(target)


def _already_there(target: Path, job: Job) -> bool:
    settings, made_from = job.settings, job.made_from  # a wrong source is an error, whatever is there
    try:
        found = load_features(target)
    except EvalkitError:  # missing, broken or stale: make it
        return False
    # a feature set made before taps were a choice has the default ones
    stamped = Taps().as_dict() | found.manifest["settings"]
    return stamped == settings and found.manifest["made_from"] == made_from


@contextmanager
def _shared_building(target: Path, job: Job) -> Iterator[Building]:
    """The artifact under construction, opened by the first process for all."""
    inputs = {"settings": job.settings, "made_from": job.made_from}
    if job.ranks.writes:
        with building(target, **inputs) as artifact:
            artifact.save(started=True)
            job.ranks.wait()
            yield artifact
    else:
        job.ranks.wait()
        yield Building(target, **inputs)
    job.ranks.wait()


def _write_rows(job: Job, network: nn.Module, layers: list[Layer], artifact: Building) -> dict[str, str]:
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
        unit="picture",
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


def _encoded(job: Job, network: nn.Module, layers: list[Layer], pictures: Tensor) -> Tensor:
    """Rows of features, (n, D) in the type on disk, of pictures in the network's range (n, C, h, w)."""
    by_name, dtype = {layer.name: layer for layer in layers}, getattr(torch, job.dtype)

    def reduce(name: str, output: Tensor) -> Tensor:
        numbers = job.taps(output, channels_last=by_name[name].channels_last)
        return numbers.to(dtype, copy=True)  # a view could be overwritten by the layers to come

    rows = [join(network(view, list(by_name), reduce), layers) for view in job.views(pictures)]
    return rows[0] if len(rows) == 1 else torch.stack(rows).float().mean(0).to(dtype)


def _finish(job: Job, layers: list[Layer], artifact: Building, hashes: dict[str, str]) -> None:
    np.save(artifact.path / "labels.npy", job.images.labels)
    for record in artifact.path.glob("rows-*.txt"):
        record.unlink()
    about = {
        "variant": variant(job.encoder, job.taps, job.mode or None, job.views),
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
    taps: Taps = Taps(),
    batch_norm: BatchNormMode | None = None,
    views: Views = Views(),
    dtype: str = "float16",
    device: str = "auto",
    precision: str = "auto",
    download: bool = True,
    say: Say = lambda line: None,
) -> FeatureSet:
    """Features of a data set by an encoder, in the workspace as DATASET--ENCODER(--VARIANT)."""
    pictures = find_images(workspace, dataset, download=download, progress=True)
    if encoder.startswith("pretrained:"):
        find_pretrained(encoder.removeprefix("pretrained:"), workspace, fetch_missing=download, say=say)
    found = find_encoder(encoder, workspace)
    say(f"images: {pictures.name} ({len(pictures):,} pictures)")
    say(f"encoder: {found.name}" + (f", {found.weights}" if found.weights else ""))
    say(f"pictures to tensors: {found.preprocessing.describe()}")
    source = images_with_hash(workspace, found.images_sha256) if batch_norm == "source" else None
    parts = [pictures.name, found.name, *variant(found, taps, batch_norm, views)]
    target = workspace.place(KIND, "--".join(re.sub(r"[^\w.@+-]+", "-", part) for part in parts))
    features = extract(
        pictures,
        found,
        target,
        taps=taps,
        batch_norm=batch_norm,
        source_images=source,
        views=views,
        dtype=dtype,
        device=device,
        precision=precision,
    )
    workspace.take(target)
    return features


def encoder_layers(
    workspace: Workspace, dataset: str, encoder: str, taps: Taps, *, download: bool = True, say: Say = lambda line: None
) -> list[tuple[Layer, tuple[int, ...], bool]]:
    """An encoder's layers for the data set's pictures (of its own size, where it takes one only): see `list_layers`."""
    found = find_encoder(encoder, workspace)
    say(f"encoder: {found.name}; pictures to tensors: {found.preprocessing.describe()}")
    if found.preprocessing.size:
        shape = (found.preprocessing.size, found.preprocessing.size, 3)
    else:
        shape = find_images(workspace, dataset, download=download, progress=True).images.shape[1:]
    return list_layers(found, torch.zeros(2, *shape, dtype=torch.uint8), taps)

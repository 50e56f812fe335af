"""extract: from an image set and an encoder to a feature set; bounded memory, resumable, one process or many."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from evalkit.arrays import Building, building
from evalkit.artifacts import new_manifest, write_atomically
from evalkit.device import describe_device, resolve_device, resolve_precision
from evalkit.distributed import Ranks, joined, local_device
from evalkit.errors import EvalkitError
from evalkit.features.batchnorm import (
    STATISTICS_BATCH,
    BatchNormMode,
    gathered,
    load_statistics,
    normalise_by_batch,
    set_statistics,
    statistics,
)
from evalkit.features.check import SAMPLE, check_outputs, choose_layers, layer_shapes
from evalkit.features.encoders.encoder import Encoder
from evalkit.features.featureset import KIND, FeatureSet, load_features
from evalkit.features.grids import Layer, Taps, join, lay_out
from evalkit.features.rows import RowsWriter, batches, create_rows, recorded
from evalkit.images.imageset import ImageSet

DTYPES = ("float16", "float32")
_BATCH = {"cpu": 64, "cuda": 1024}  # pictures a pass: on a CPU, maps that stay in its cache; no effect on the features


def extract(
    images: ImageSet,
    encoder: Encoder,
    target: Path,
    *,
    taps: Taps = Taps(),
    batch_norm: BatchNormMode | None = None,
    source_images: ImageSet | None = None,
    dtype: str = "float16",
    device: str = "auto",
    precision: str = "auto",
) -> FeatureSet:
    """Features of every picture of `images`, written to `target`; an interrupted extraction goes on where it was.

    Under `torchrun` each process takes a share of the pictures; the arrays are the same, byte for byte.

    Args:
        images: pictures of a size that the encoder takes.
        encoder: from `find_encoder`. Its network is moved to the device and its batch norms are set.
        target: the feature set's directory. One with equal settings and inputs is returned as it is.
        taps: which layers, pooled to which grid; by default the paper's.
        batch_norm: whose statistics normalise: `target`, `source` (needs `source_images`), `running`, `batch`; None:
            the encoder's own choice.
        source_images: the pictures that the encoder was trained on.
        dtype: float16 or float32 on disk.

    Raises:
        EvalkitError: pictures of another size, no such layer, outputs that are not finite or depend on the batch.
    """
    with joined(resolve_device(device)) as ranks:
        where = local_device(resolve_device(device))
        mode = (batch_norm or encoder.batch_norm) if encoder.network.norms() else ""
        job = _Job(images, encoder, taps, mode, source_images, dtype, resolve_precision(precision, where), where, ranks)
        if not ranks.objects(_already_there(target, job))[0]:
            with _shared_building(target, job) as artifact:
                network, layers = _network(job, artifact)
                hashes = _write_rows(job, network, layers, artifact)
                if ranks.writes:
                    _finish(job, layers, artifact, hashes)
    return load_features(target)


def variant(encoder: Encoder, taps: Taps, batch_norm: str | None) -> list[str]:
    """What differs from the encoder's own choice of batch norm and the paper's taps, in words that a figure carries."""
    other = batch_norm not in (None, encoder.batch_norm) and encoder.network.norms()
    return ([f"{batch_norm} batch norm"] if other else []) + taps.variant()


@dataclass(frozen=True)
class _Job:
    """What `extract` was asked for; `mode` is empty for a network without batch norm."""

    images: ImageSet
    encoder: Encoder
    taps: Taps
    mode: str
    source_images: ImageSet | None
    dtype: str
    precision: str
    device: torch.device
    ranks: Ranks

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "dataset": self.images.name,
            "encoder": self.encoder.name,
            "weights": self.encoder.weights,
            "batch_norm": self.mode,
            "dtype": self.dtype,
            "precision": self.precision,
        } | self.taps.as_dict()

    @property
    def made_from(self) -> dict[str, str]:
        found = {"weights_sha256": self.encoder.sha256, "images_sha256": self.images.sha256}
        return found if self.mode != "source" else found | {"statistics_sha256": self.statistics_images.sha256}

    @property
    def statistics_images(self) -> ImageSet:
        """The pictures whose statistics normalise."""
        if self.mode != "source":
            return self.images
        given = self.source_images
        if given is None or given.sha256 != self.encoder.images_sha256:
            found = given.name if given else "none given"
            raise EvalkitError(
                f"{self.encoder.name}: batch norm `source` needs the pictures it was trained on, found {found}"
            )
        return given

    def tensor(self, first: int, end: int) -> Tensor:
        """Pictures, uint8 (n, H, W, 3), on the device."""
        return torch.from_numpy(np.array(self.images.images[first:end])).to(self.device)


def _already_there(target: Path, job: _Job) -> bool:
    settings, made_from = job.settings, job.made_from  # a wrong source is an error, whatever is there
    try:
        found = load_features(target)
    except EvalkitError:  # missing, broken or stale: make it
        return False
    # a feature set made before taps were a choice has the default ones
    stamped = Taps().as_dict() | found.manifest["settings"]
    return stamped == settings and found.manifest["made_from"] == made_from


@contextmanager
def _shared_building(target: Path, job: _Job) -> Iterator[Building]:
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


def _network(job: _Job, artifact: Building) -> tuple[nn.Module, list[Layer]]:
    """The encoder ready to run, statistics fixed and folded in, and its layers' places; tried on a few pictures."""
    encoder, sample = job.encoder, job.tensor(0, SAMPLE)
    encoder.network.to(job.device).to(memory_format=torch.channels_last)
    shapes = layer_shapes(encoder, sample)
    layers = choose_layers(encoder, shapes, job.taps)
    _fix_batch_norms(job, artifact)
    check_outputs(encoder, sample, layers, alone=job.mode != "batch")
    network = encoder.network.lowered(layers, precision=job.precision, sample=encoder.preprocessing(sample))
    return network.to(job.device), lay_out({name: shapes[name] for name in layers}, job.taps)


def _fix_batch_norms(job: _Job, artifact: Building) -> None:
    """Sets the network's batch norms; statistics are computed once and kept beside the features."""
    network, kept = job.encoder.network, artifact.path / "statistics.safetensors"
    if job.mode == "batch":
        normalise_by_batch(network)
    if job.mode in ("", "batch"):
        return
    if job.mode == "running" and job.encoder.batch_norm != "running" and not gathered(network):
        raise EvalkitError(
            f"{job.encoder.name}: batch norm `running` needs statistics gathered in training, these weights have none; "
            f"use {job.encoder.batch_norm}"
        )
    if job.ranks.objects(kept.exists())[0]:
        load_statistics(network, load_file(kept, device=str(job.device)))
        return
    if job.mode != "running":
        pictures = job.statistics_images
        training = pictures.split("train") if "train" in pictures.splits else pictures.images
        set_statistics(
            network,
            training,
            preprocessing=job.encoder.preprocessing,
            precision=job.precision,
            device=job.device,
            ranks=job.ranks,
        )
    if job.ranks.writes:
        write_atomically(kept, save({name: value.cpu() for name, value in statistics(network).items()}))


def _write_rows(job: _Job, network: nn.Module, layers: list[Layer], artifact: Building) -> dict[str, str]:
    """Computes this process's share of the rows that are not on disk yet and has them written; returns known hashes."""
    if job.ranks.writes:
        create_rows(artifact.path / "features.npy", (len(job.images), sum(x.length for x in layers)), job.dtype)
    job.ranks.wait()
    size = STATISTICS_BATCH if job.mode == "batch" else _BATCH[job.device.type]
    done = recorded(artifact.path)
    todo = [each for each in batches(list(job.images.splits.values()), len(job.images), size) if each not in done]
    names, dtype = [layer.name for layer in layers], getattr(torch, job.dtype)

    def reduce(output: Tensor) -> Tensor:
        return job.taps(output).to(dtype, copy=True)  # a view could be overwritten by the layers to come

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
            outputs = network(job.encoder.preprocessing(job.tensor(first, end)), names, reduce)
            out.put(join(outputs, layers), first)
            bar.update((end - first) * job.ranks.count)
    job.ranks.wait()
    return out.hashes


def _finish(job: _Job, layers: list[Layer], artifact: Building, hashes: dict[str, str]) -> None:
    np.save(artifact.path / "labels.npy", job.images.labels)
    for record in artifact.path.glob("rows-*.txt"):
        record.unlink()
    about = {
        "variant": variant(job.encoder, job.taps, job.mode or None),
        "preprocessing": job.encoder.preprocessing.as_dict(),
        "device": describe_device(job.device),
        "layers": [layer.as_dict() for layer in layers],
        "class_names": list(job.images.class_names),
        "splits": {name: list(rows) for name, rows in job.images.splits.items()},
    }
    artifact.finish(new_manifest(KIND, settings=job.settings, made_from=job.made_from) | about, hashes=hashes)

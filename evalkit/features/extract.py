"""Extract: from images and an encoder to a feature set; bounded memory, resumable, one process or several.

`encoder_setup.py` makes the encoder ready, the loop here runs it over the images, and `writer.py` writes the rows.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from evalkit.artifacts import ArtifactWriter, already_built, new_manifest, read_manifest, write_artifact
from evalkit.batch_statistics import STATISTICS_BATCH
from evalkit.encoders import load_encoder
from evalkit.encoders.encoder import Encoder
from evalkit.encoders.fingerprint import outputs_sha256
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.augmentation import augmented
from evalkit.features.encoder_setup import ExtractionJob, LayerEntry, layer_table, setup_encoder, variant
from evalkit.features.featureset import KIND, FeatureSet, Layer, load_features
from evalkit.features.options import Augmentation, BatchNormMode, ExtractOptions, FeatureType, LayerSelection
from evalkit.features.pooling import join, pool_output
from evalkit.features.rounding import LARGEST_ARITHMETIC_ERROR, NOISE, Rounding, measure
from evalkit.features.writer import RowsWriter, batches, create_rows, layout, recorded
from evalkit.images import as_image_set, find_images_by_sha256
from evalkit.images.imageset import ImageSet
from evalkit.runtime import describe_device, joined, local_device, resolve_device, resolve_precision
from evalkit.workspace import Workspace

logger = logging.getLogger(__name__)

_BATCH = {"cpu": 64, "cuda": 1024}  # images; on a CPU, so few that maps stay in its cache; no effect on the features


def extract(
    images: Any,
    encoder: Any = "latest",
    *,
    home: Workspace | Path | str | None = None,
    layers: LayerSelection | Sequence[str] | str = LayerSelection(),
    batch_norm: BatchNormMode | None = ExtractOptions.batch_norm,
    source_images: Any = None,
    augmentation: Augmentation = Augmentation(),
    dtype: FeatureType = ExtractOptions.dtype,
    device: str = "auto",
    precision: str = "auto",
    data: Path | str | None = None,
    download: bool = True,
    out: Path | str | None = None,
) -> FeatureSet:
    """Features of every image of `images` by `encoder`, written to disk; an interrupted extraction resumes.

    Under `torchrun` each process takes a share of the images; the arrays are the same, byte for byte.

    Args:
        images: what `as_image_set` takes: the name or path of an image set, an ImageSet, arrays, a torch Dataset or
            DataLoader.
        encoder: what `load_encoder` takes: a name, the path of a run or checkpoint, an `nn.Module`, an Encoder. Its
            batch norms stay as they are: those of a copy are set.
        home: the workspace; None: a temporary one that lasts as long as the feature set.
        layers: names of layers, or a LayerSelection, which also says how they are pooled; by default the paper's.
        batch_norm: whose statistics normalise: `target`, `source`, `running` or `batch`, see `batchnorm.py`; None: the
            encoder's own choice.
        source_images: the images that the encoder was trained on, for batch norm `source`; by default they are looked
            up in the workspace. Not needed for an encoder that comes with their statistics.
        augmentation: copies of each image whose features are averaged with its own; by default none.
        dtype: float16 or float32 on disk; auto: float16, or float32 if a classifier could see what float16 loses.
        device: cpu, cuda, ... or auto.
        precision: arithmetic of convolutions: float32, bfloat16, or auto: the faster one, unless bfloat16 loses much.
        data: the files of a named data set, in place of a download.
        download: whether missing images and released weights may be downloaded.
        out: the feature set's directory, in place of DATASET--ENCODER(--VARIANT) in the workspace. A feature set with
            equal settings and inputs is returned as it is, another one is replaced.

    Raises:
        EvalkitError: images of another size, no such layer, outputs that are not finite or depend on the batch.
    """
    workspace, selection = Workspace.of(home), _as_selection(layers)
    image_set = as_image_set(images, home=home, data=data, download=download)
    logger.info("images: %s (%s images)", image_set.name, f"{len(image_set):,}")
    loaded = _loaded(encoder, workspace, download)
    if source_images is not None:
        source_images = as_image_set(source_images, home=home)
    elif batch_norm == "source":
        source_images = find_images_by_sha256(workspace, loaded.images_sha256)
    target = Path(out) if out else _default_target(workspace, image_set, loaded, selection, batch_norm, augmentation)
    with joined(resolve_device(device)) as ranks:
        where = local_device(resolve_device(device))
        job = ExtractionJob(
            images=image_set,
            encoder=loaded,
            selection=selection,
            augmentation=augmentation,
            mode=(batch_norm or loaded.batch_norm) if loaded.network.batch_norms() else "",
            source_images=source_images,
            dtype="float16" if dtype == "auto" else dtype,
            precision=resolve_precision(precision, where),
            device=where,
            ranks=ranks,
            outputs_sha256=ranks.objects(outputs_sha256(loaded, *image_set.images.shape[1:3]))[0],
            requested={"dtype": dtype, "precision": precision, "fastest": resolve_precision(precision, where)},
        )
        features = _run(job, ranks.objects(target)[0])  # without a workspace every process has a target of its own
    if out is None:
        workspace.mark_latest(target)
    return features.kept_by(workspace)


def list_layers(
    encoder: Any = "latest",
    images: Any = None,
    *,
    home: Workspace | Path | str | None = None,
    layers: LayerSelection | Sequence[str] | str = LayerSelection(),
    data: Path | str | None = None,
    download: bool = True,
) -> list[LayerEntry]:
    """An encoder's layers in the order in which they are computed, with output shapes and numbers of features.

    Args:
        encoder: what `load_encoder` takes.
        images: what `as_image_set` takes; only their size is used, and only if the encoder takes images of any size.
        home, layers, data, download: as in `extract`.

    Raises:
        EvalkitError: no such layer, or an encoder for images of any size without `images`.
    """
    workspace = Workspace.of(home)
    loaded = _loaded(encoder, workspace, download)
    if loaded.preprocessing.size:
        shape: tuple[int, ...] = (loaded.preprocessing.size, loaded.preprocessing.size, 3)
    elif images is None:
        raise EvalkitError(f"{loaded.name}: takes images of any size; give images= to say which")
    else:
        shape = as_image_set(images, home=home, data=data, download=download).images.shape[1:]
    return layer_table(loaded, torch.zeros(2, *shape, dtype=torch.uint8), _as_selection(layers))


def _as_selection(layers: LayerSelection | Sequence[str] | str) -> LayerSelection:
    if isinstance(layers, LayerSelection):
        return layers
    return LayerSelection((layers,) if isinstance(layers, str) else tuple(layers))


def _loaded(encoder: Any, workspace: Workspace, download: bool) -> Encoder:
    loaded = load_encoder(encoder, home=workspace, download=download)
    logger.info("encoder: %s%s", loaded.name, f", {loaded.weights}" if loaded.weights else "")
    logger.info("images to tensors: %s", loaded.preprocessing.describe())
    return loaded


def _default_target(
    workspace: Workspace,
    images: ImageSet,
    encoder: Encoder,
    selection: LayerSelection,
    batch_norm: BatchNormMode | None,
    augmentation: Augmentation,
) -> Path:
    """DATASET--ENCODER(--VARIANT) in the workspace."""
    parts = [images.name, encoder.name, *variant(encoder, selection, batch_norm, augmentation)]
    return workspace.path_of(KIND, "--".join(re.sub(r"[^\w.@+-]+", "-", part) for part in parts))


def _run(job: ExtractionJob, target: Path) -> FeatureSet:
    """The feature set at `target`, written by all processes unless it exists."""
    job = _as_stored(job, target)
    # wrong source images are an error even if the features exist
    existing = already_built(target, KIND, settings=job.settings, made_from=job.made_from, replace=True)
    if not job.ranks.objects(existing is not None)[0]:
        with _shared_artifact(target, job) as artifact:
            job, layers, hashes = _write_features(_as_started(job, artifact), artifact)
            if job.ranks.writes:
                _finish(job, layers, artifact, hashes)
    features = load_features(target)
    for layer in features.layers:
        end = layer.offset + layer.length
        logger.info("%s: %d channels, columns %d to %d", layer.name, layer.channels, layer.offset, end - 1)
    return features


def _as_stored(job: ExtractionJob, target: Path) -> ExtractionJob:
    """The job with the type and arithmetic that the features at `target` got for the same request."""
    try:
        settings = read_manifest(target, KIND)["settings"]
    except ArtifactError:
        return job
    return _with_choices(job, settings) if settings.get("requested") == job.requested else job


def _as_started(job: ExtractionJob, artifact: ArtifactWriter) -> ExtractionJob:
    """The job with the type and arithmetic that an interrupted extraction had come to."""
    return _with_choices(job, artifact.progress)


def _with_choices(job: ExtractionJob, choices: Mapping[str, Any]) -> ExtractionJob:
    """The job with other values of what was requested as `auto`."""
    allowed = {"dtype": ("float16", "float32"), "precision": ("bfloat16", "float32")}
    wanted = {key: choices.get(key) for key in allowed if job.requested.get(key) == "auto"}
    chosen: dict[str, Any] = {key: value for key, value in wanted.items() if value in allowed[key]}
    return replace(job, **chosen)


def _write_features(job: ExtractionJob, artifact: ArtifactWriter) -> tuple[ExtractionJob, list[Layer], dict[str, str]]:
    """Writes all rows, again where bfloat16 arithmetic or float16 on disk loses too much and was not asked for."""
    ready = setup_encoder(job, artifact)
    # NaN is a loss, too
    if job.precision == "bfloat16" and not ready.rounding.error <= LARGEST_ARITHMETIC_ERROR:
        loss = f"bfloat16 arithmetic gives the features {ready.rounding.describe()}"
        if job.requested.get("precision") == "auto":
            return _write_features(_start_again(job, artifact, loss, precision="float32"), artifact)
        logger.warning("features: %s", loss)
    hashes, rounding = _write_rows(job, ready.network, ready.layers, artifact)
    lossy = [each for each in job.ranks.objects(rounding) if each.is_lossy]
    if lossy and job.requested.get("dtype") == "auto":
        loss = f"float16 would give them {lossy[0].describe()}"
        return _write_features(_start_again(job, artifact, loss, dtype="float32"), artifact)
    return job, ready.layers, hashes


def _start_again(job: ExtractionJob, artifact: ArtifactWriter, loss: str, **choice: Any) -> ExtractionJob:
    """The job in float32; what is on disk goes, and a resumed extraction does not try again."""
    logger.warning("features: %s; float32 is used", loss)
    if job.ranks.writes:
        stale = [*artifact.path.glob("rows-*.txt"), artifact.path / "features.npy"]
        for path in [*stale, *([artifact.path / "statistics.safetensors"] if "precision" in choice else [])]:
            path.unlink(missing_ok=True)
        artifact.save(**artifact.progress | choice)  # last: before, the files are not of this choice
    job.ranks.wait()
    return replace(job, **choice)


@contextmanager
def _shared_artifact(target: Path, job: ExtractionJob) -> Iterator[ArtifactWriter]:
    """The artifact under construction, opened by the first process for all."""
    requested = {"dtype": "", "precision": ""}  # what is chosen later is recorded as progress
    inputs = {"settings": job.settings | requested, "made_from": job.made_from}
    if job.ranks.writes:
        with write_artifact(target, **inputs) as artifact:
            artifact.save(**artifact.progress | {"started": True})
            job.ranks.wait()
            yield artifact
    else:
        job.ranks.wait()
        yield ArtifactWriter(target, **inputs)
    job.ranks.wait()


def _write_rows(
    job: ExtractionJob, network: nn.Module, layers: list[Layer], artifact: ArtifactWriter
) -> tuple[dict[str, str], Rounding]:
    """Computes and writes this process's share of the rows that are not on disk yet; returns the hashes it knows.

    It stops early where float16 loses too much and float32 may be taken instead; the rounding says so.
    """
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
    job.ranks.wait()  # no process records rows before all have read the records
    lossless = job.requested.get("dtype") == "auto"
    writer = RowsWriter(artifact.path, layers, job.images.name, rank=job.ranks.number, lossless=lossless)
    with torch.inference_mode(), bar, writer as out:
        for first, end in todo[job.ranks.number :: job.ranks.count]:
            rows, roundings = _encode(job, network, layers, job.encoder.preprocessing(job.tensor(first, end)))
            out.put(rows, first, roundings)
            bar.update((end - first) * job.ranks.count)
            if lossless and out.rounding.is_lossy:
                break
    job.ranks.wait()
    return out.hashes, out.rounding


def _encode(job: ExtractionJob, network: nn.Module, layers: list[Layer], images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Rows of features, (n, D) in the type on disk, of images in the network's range (n, C, h, w), and roundings."""
    by_name, dtype = {layer.name: layer for layer in layers}, getattr(torch, job.dtype)
    roundings: list[Tensor] = []

    def reduce(name: str, output: Tensor) -> Tensor:
        numbers = pool_output(output, job.selection, channels_last=by_name[name].channels_last)
        stored = numbers.to(dtype, copy=True)  # later layers could overwrite a view
        if dtype == torch.float16:
            roundings.append(measure(torch, numbers.float(), stored.float(), noise=NOISE))
        return stored

    rows = [join(network(copy, list(by_name), reduce), layers) for copy in augmented(images, job.augmentation)]
    return rows[0] if len(rows) == 1 else torch.stack(rows).float().mean(0).to(dtype), roundings


def _finish(job: ExtractionJob, layers: list[Layer], artifact: ArtifactWriter, hashes: dict[str, str]) -> None:
    np.save(artifact.path / "labels.npy", job.images.labels)
    for record in artifact.path.glob("rows-*.txt"):
        record.unlink()
    manifest = new_manifest(KIND, settings=job.settings, made_from=job.made_from) | {
        "variant": variant(job.encoder, job.selection, job.mode or None, job.augmentation),
        "preprocessing": job.encoder.preprocessing.as_dict(),
        "device": describe_device(job.device),
    }
    artifact.finish(manifest | layout(job.images.class_names, job.images.splits, layers), hashes=hashes)

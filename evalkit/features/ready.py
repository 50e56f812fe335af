"""An encoder made ready for many pictures: layers chosen, batch norms fixed, tried on a few, lowered."""

from copy import deepcopy
from dataclasses import replace

import torch
from safetensors.torch import load_file, save
from torch import nn

from evalkit.arrays import Building
from evalkit.artifacts import write_atomically
from evalkit.errors import EvalkitError
from evalkit.features.batchnorm import gathered, load_statistics, normalise_by_batch, set_statistics, statistics
from evalkit.features.check import SAMPLE, check_outputs, choose_layers, layer_shapes
from evalkit.features.encoders.encoder import Encoder
from evalkit.features.grids import Layer, lay_out
from evalkit.features.job import Job
from evalkit.features.layout import channels_last_layers


def ready_network(job: Job, artifact: Building) -> tuple[nn.Module, list[Layer]]:
    """A network to run, statistics fixed and folded in, and its layers' places; tried on a few pictures.

    Statistics are set in a copy, so that another extraction with the same encoder starts from its own.

    Raises:
        EvalkitError: no such layer, no statistics, too large a shift, outputs that are not finite or depend on the
            batch.
    """
    encoder, sample = job.encoder, job.tensor(0, SAMPLE)
    if job.mode:
        encoder = replace(encoder, network=deepcopy(encoder.network))
    encoder.network.to(job.device).to(memory_format=torch.channels_last)
    shapes = layer_shapes(encoder, sample)
    job.views.check(*encoder.preprocessing(sample).shape[2:])
    layers = choose_layers(encoder, shapes, job.taps)
    taken = {name: shapes[name] for name in layers}
    places = lay_out(taken, job.taps, channels_last=channels_last_layers(encoder, sample, taken, job.taps))
    _fix_batch_norms(job, encoder, artifact)
    check_outputs(encoder, sample, layers, alone=job.mode != "batch")
    network = encoder.network.lowered(layers, precision=job.precision, sample=encoder.preprocessing(sample))
    return network.to(job.device), places


def _fix_batch_norms(job: Job, encoder: Encoder, artifact: Building) -> None:
    """Sets the network's batch norms; statistics are computed once and kept beside the features."""
    network, kept = encoder.network, artifact.path / "statistics.safetensors"
    if job.mode == "batch":
        normalise_by_batch(network)
    if job.mode in ("", "batch"):
        return
    if job.mode == "running":
        _refuse_ungathered(encoder)
    if job.ranks.objects(kept.exists())[0]:
        load_statistics(network, load_file(kept, device=str(job.device)))
        return
    if job.mode == "source" and encoder.source_statistics:
        load_statistics(network, encoder.source_statistics)
    elif job.mode != "running":
        set_statistics(
            network,
            job.statistics_images.training,
            preprocessing=encoder.preprocessing,
            precision=job.precision,
            device=job.device,
            ranks=job.ranks,
        )
    if job.ranks.writes:
        write_atomically(kept, save({name: value.cpu() for name, value in statistics(network).items()}))


def _refuse_ungathered(encoder: Encoder) -> None:
    if encoder.batch_norm != "running" and not gathered(encoder.network):
        raise EvalkitError(
            f"{encoder.name}: batch norm `running` needs statistics gathered in training, these weights have none; "
            f"use {encoder.batch_norm}"
        )

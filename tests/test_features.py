"""Features: pooling by hand, features against plain NumPy, batch-norm statistics, resuming, provenance."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CPU, random_encoder
from helpers import TINY_RECIPE as TINY
from safetensors.torch import load_file

from evalkit.encoders import load_encoder
from evalkit.encoders.dcgan import preprocessing_of
from evalkit.encoders.module import HookedNetwork
from evalkit.encoders.shallow import pixels_encoder
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.features.batchnorm import set_statistics, statistics
from evalkit.features.extract import _BATCH as BATCH
from evalkit.features.extract import extract
from evalkit.features.featureset import load_features
from evalkit.features.options import Augmentation, LayerSelection
from evalkit.features.pooling import feature_columns, join, pool_output, pool_to_grid
from evalkit.features.writer import recorded
from evalkit.gan.networks import build_networks, to_network_range
from evalkit.gan.recipes import RECIPES
from evalkit.gan.train import TrainOptions, train
from evalkit.workspace import Workspace

PIXELS = pixels_encoder()


# -- pooling and columns


def test_value_of_pooling_an_8x8_map():
    ascending = torch.arange(64.0).view(1, 1, 8, 8)
    # each 2x2 window's largest is its lower right corner
    expected = [9, 11, 13, 15, 25, 27, 29, 31, 41, 43, 45, 47, 57, 59, 61, 63]
    assert pool_to_grid(ascending, 4).tolist() == [expected]


def test_value_of_pooling_a_map_that_the_grid_does_not_divide():
    ascending = torch.arange(49.0).view(1, 1, 7, 7)
    # windows of rows (and columns) 0-1, 1-3, 3-5, 5-6
    assert pool_to_grid(ascending, 4).view(4, 4)[:, 3].tolist() == [13, 27, 41, 48]


def test_pinned_columns_of_the_papers_networks():
    outputs = build_networks(RECIPES["imagenet32"], seed=0)[1].eval().layer_outputs(torch.zeros(1, 3, 32, 32))
    layers = feature_columns({name: output.shape[1:] for name, output in outputs.items()}, LayerSelection())
    assert [layer.length for layer in layers] == [2048, 2048, 4096, 4096, 8192, 8192]
    assert layers[-1].offset + layers[-1].length == 28_672
    assert [outputs[layer.name].shape[2] // 4 for layer in layers] == [8, 4, 4, 2, 2, 1]  # the windows
    svhn = build_networks(RECIPES["svhn"], seed=0)[1].eval().layer_outputs(torch.zeros(1, 3, 32, 32))
    assert (
        sum(layer.length for layer in feature_columns({k: v.shape[1:] for k, v in svhn.items()}, LayerSelection()))
        == 7_168
    )


def test_value_of_concatenation_is_map_by_map_layer_by_layer():
    first = torch.arange(8.0).view(1, 2, 2, 2)
    second = torch.tensor([[[[9.0, 8], [7, 6]]]])
    layers = feature_columns({"a": (2, 2, 2), "b": (1, 2, 2), "c": (3,)}, LayerSelection(pool_size=2))
    outputs = {"a": first, "b": second, "c": torch.tensor([[-1.0, -2, -3]])}
    rows = join({name: pool_output(output, LayerSelection(pool_size=2)) for name, output in outputs.items()}, layers)
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 9, 8, 7, 6, -1, -2, -3]]


# -- reference: the features in plain NumPy


def convolve(x, weight, stride):
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, weight)


def numpy_features(discriminator, train_images, images):
    """float64 (n, D): statistics from batches of 128 of `train_images`, each normalised by itself, then frozen."""
    weights = {k: v.double().numpy() for k, v in discriminator.state_dict().items()}
    batches = [train_images[i : i + 128] / 127.5 - 1 for i in range(0, len(train_images), 128)]
    batches = [batch.transpose(0, 3, 1, 2) for batch in batches]
    x, layers = images.transpose(0, 3, 1, 2) / 127.5 - 1, []
    for i, stride in enumerate(discriminator.recipe.d_strides):
        kernel = weights[f"blocks.{i}.conv.weight"]
        batches, x = [convolve(batch, kernel, stride) for batch in batches], convolve(x, kernel, stride)
        if i > 0:
            gain, bias = (weights[f"blocks.{i}.norm.{n}"][:, None, None] for n in ("weight", "bias"))
            moments = [(b.mean((0, 2, 3), keepdims=True), b.var((0, 2, 3), keepdims=True)) for b in batches]
            mean, variance = (np.mean([m[j] for m in moments], axis=0) for j in (0, 1))
            batches = [(b - m) / np.sqrt(v + 1e-8) * gain + bias for b, (m, v) in zip(batches, moments, strict=True)]
            x = (x - mean) / np.sqrt(variance + 1e-8) * gain + bias
        batches, x = [np.where(b > 0, b, 0.2 * b) for b in batches], np.where(x > 0, x, 0.2 * x)
        n, maps, side, _ = x.shape
        layers.append(x.reshape(n, maps, 4, side // 4, 4, side // 4).max((3, 5)).reshape(n, -1))
    return np.concatenate(layers, axis=1)


def test_reference_features_with_target_statistics(striped, tmp_path):
    encoder = random_encoder()
    with torch.no_grad():  # gains and biases that would show a mistake in folding
        for norm in encoder.network.discriminator.batch_norms().values():
            norm.bias.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(1))
    features = extract(striped, encoder, out=tmp_path / "features", dtype="float32", **CPU)
    expected = numpy_features(random_encoder_like(encoder), striped.split("train"), striped.images)
    # float32 through six layers whose inputs are normalised to about 1
    np.testing.assert_allclose(features.features, expected, rtol=0, atol=2e-4)
    assert features.features.shape == (360, 28_672 // 32)


def random_encoder_like(encoder):
    return encoder.network.discriminator.cpu()


def test_reference_features_averaged_over_augmented_copies(striped, tmp_path):
    encoder = random_encoder()
    d, training, images = encoder.network.discriminator, np.array(striped.training), np.array(striped.images[:40])
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    corners = [padded[:, y : y + 32, x : x + 32] for y in (0, 4) for x in (0, 4)]
    for augmentation, copies, variant in (
        (Augmentation(hflip=True), [images], "with mirror image"),
        (Augmentation(hflip=True, shift=2), [images, *corners], "shifted by 2, with mirror image"),
    ):
        averaged = extract(
            striped, encoder, out=tmp_path / "features", augmentation=augmentation, dtype="float32", **CPU
        )
        copies = [*copies, *(copy[:, :, ::-1] for copy in copies)]
        expected = np.mean([numpy_features(d, training, copy) for copy in copies], axis=0)
        np.testing.assert_allclose(averaged.features[:40], expected, rtol=1e-4, atol=1e-5)
        assert averaged.encoder == f"random:tiny ({variant})"
    alone = extract(
        striped, encoder, out=tmp_path / "features", **CPU
    )  # another variant in the same directory replaces it
    assert alone.encoder == "random:tiny"
    assert not np.array_equal(alone.features, averaged.features)


def test_impossible_shifts_are_refused(striped, tmp_path):
    with pytest.raises(EvalkitError, match="shift = -1, expected a number of pixels"):
        Augmentation(shift=-1)
    with pytest.raises(EvalkitError, match="shift = 32, expected less than the images' 32 pixels"):
        extract(striped, random_encoder(), out=tmp_path / "features", augmentation=Augmentation(shift=32), **CPU)
    assert not list(tmp_path.rglob("statistics.safetensors"))  # nothing was computed for it


def test_a_norm_used_twice_averages_both_uses(striped):
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(x) + self.norm(3 * x)

    network, images = HookedNetwork(Twice()), striped.images[:130]  # two batches, so four uses
    where = {"precision": "float32", "device": torch.device("cpu"), "progress": False}
    set_statistics(network, images, preprocessing=preprocessing_of(TINY), **where)
    batches = [to_network_range(torch.from_numpy(np.array(p)), TINY) for p in (images[:128], images[128:])]
    expected = sum((1 + 3) * batch.mean((0, 2, 3)) for batch in batches) / 4
    means = {name: value for name, value in statistics(network).items() if name.endswith("mean")}
    torch.testing.assert_close(next(iter(means.values())), expected, rtol=1e-5, atol=1e-6)


def test_a_norm_the_network_does_not_use_keeps_its_buffers(striped):
    class Spare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3, track_running_stats=False)
            self.spare = torch.nn.BatchNorm2d(3, momentum=0.3)

        def forward(self, x):
            return self.norm(x)

    network = HookedNetwork(Spare())
    network.module.spare.running_mean.fill_(7)
    where = {"precision": "float32", "device": torch.device("cpu"), "progress": False}
    set_statistics(network, striped.images[:128], preprocessing=preprocessing_of(TINY), **where)
    batch = to_network_range(torch.from_numpy(np.array(striped.images[:128])), TINY)
    torch.testing.assert_close(network.module.norm.running_mean, batch.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert network.module.spare.running_mean.tolist() == [7, 7, 7]
    assert network.module.spare.momentum == 0.3
    assert not network.module.norm.track_running_stats


def test_bfloat16_features_stay_near_float32(striped, tmp_path):
    whole = extract(striped, random_encoder(), out=tmp_path / "a", **CPU).features.astype(np.float32)
    half = extract(striped, random_encoder(), out=tmp_path / "b", device="cpu", precision="bfloat16").features
    # bf16 keeps 8 bits; the error of six layers stays within a few units in the last place of values of about 1
    assert np.abs(half.astype(np.float32) - whole).mean() < 0.02


def test_statistics_are_unweighted_averages_of_biased_batch_variances(striped):
    network = random_encoder().network
    discriminator = network.discriminator
    images = striped.images[:130]  # a batch of 128 and one of 2, which count alike
    where = {"precision": "float32", "device": torch.device("cpu"), "progress": False}
    set_statistics(network, images, preprocessing=preprocessing_of(TINY), **where)
    batches = [to_network_range(torch.from_numpy(np.array(p)), TINY) for p in (images[:128], images[128:])]
    outputs = []
    for batch in batches:
        first = torch.nn.functional.leaky_relu(discriminator.blocks[0].conv(batch), 0.2)
        outputs.append(discriminator.blocks[1].conv(first).detach())
    expected = sum(o.var((0, 2, 3), correction=0) for o in outputs) / 2
    torch.testing.assert_close(statistics(network)["conv2.variance"], expected, rtol=1e-5, atol=0)


# -- batch-norm modes, resume, provenance


@pytest.fixture
def trained(striped, tmp_path):
    workspace = Workspace(tmp_path / "home")
    options = TrainOptions(device="cpu", precision="float32")
    train(striped, workspace.path_of("run", "tiny"), TINY, options=options)
    return workspace


def test_batch_norm_modes_differ_and_source_is_checked(striped, trained, tmp_path):
    encoder = load_encoder("tiny", home=trained)
    assert encoder.name == "tiny@2"
    target = extract(striped, encoder, out=tmp_path / "target", **CPU)
    running = extract(
        striped, load_encoder("latest", home=trained), out=tmp_path / "running", batch_norm="running", **CPU
    )
    source = extract(
        striped,
        load_encoder("latest", home=trained),
        out=tmp_path / "source",
        batch_norm="source",
        source_images=striped,
        **CPU,
    )
    assert np.array_equal(source.features, target.features)  # trained on the same images
    assert np.abs(running.features[:, -512:].astype(float) - target.features[:, -512:]).mean() > 0.05
    assert running.encoder == "tiny@2 (running batch norm)"
    assert target.encoder == "tiny@2"
    with pytest.raises(EvalkitError, match="needs the images it was trained on, found none given"):
        extract(striped, encoder, out=tmp_path / "none", batch_norm="source", **CPU)


EXTRACT_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(2)
import evalkit.features.extract as module, evalkit.features.writer as rows
from helpers import CPU, random_encoder
from evalkit.images.imageset import load_images
module._BATCH["cpu"] = rows._RECORD_EVERY = 8
module.extract(load_images(Path({images!r})), random_encoder(), out=Path({target!r}), **CPU)
"""


def test_a_killed_extraction_that_resumes_equals_an_uninterrupted_one(striped, tmp_path, monkeypatch):
    monkeypatch.setitem(BATCH, "cpu", 8)
    whole = extract(striped, random_encoder(), out=tmp_path / "whole", **CPU)
    target = tmp_path / "killed"
    script = EXTRACT_SCRIPT.format(
        tests=str(Path(__file__).parent), images=str(tmp_path / "striped"), target=str(target)
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    record = tmp_path / "killed.partial" / "rows-0.txt"
    while process.poll() is None and not (record.exists() and record.read_text()):
        time.sleep(0.001)
    process.kill()
    process.wait()
    done = sum(end - first for first, end in recorded(record.parent))
    assert 0 < done < 360
    resumed = extract(striped, random_encoder(), out=target, **CPU)
    assert resumed.sha256 == whole.sha256
    assert {path.name for path in target.iterdir()} == {*whole.manifest["files"], "manifest.json"}


def test_two_processes_write_the_same_files_as_one(striped, tmp_path, monkeypatch):
    """The processes take turns at the batches, those of the statistics included."""
    monkeypatch.setitem(BATCH, "cpu", 8)
    whole = extract(striped, random_encoder(), out=tmp_path / "whole", **CPU)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = EXTRACT_SCRIPT.format(
        tests=str(Path(__file__).parent), images=str(tmp_path / "striped"), target=str(tmp_path / "shared")
    )
    address = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen([sys.executable, "-c", script], env=os.environ | address | {"RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(60) for process in started] == [0, 0]
    shared = load_features(tmp_path / "shared")
    assert shared.manifest["files"] == whole.manifest["files"]  # sizes and hashes
    assert shared.manifest["settings"] == whole.manifest["settings"]


def test_finished_extraction_is_not_repeated_but_other_weights_are(striped, tmp_path):
    first = extract(striped, random_encoder(), out=tmp_path / "features", **CPU)
    again = extract(striped, random_encoder(), out=tmp_path / "features", **CPU)
    assert first.manifest["created"] == again.manifest["created"]
    other = extract(striped, random_encoder(seed=1), out=tmp_path / "features", **CPU)
    assert other.sha256 != first.sha256


def test_changed_weights_are_noticed(striped, trained, tmp_path):
    encoder = load_encoder("tiny", home=trained)
    extract(striped, encoder, out=tmp_path / "features", **CPU)
    assert load_features(tmp_path / "features").weights_sha256 == encoder.sha256
    Path(encoder.weights).write_bytes(b"other weights")
    with pytest.raises(EvalkitError, match="no longer the weights these features were made with"):
        load_features(tmp_path / "features")


def test_stored_statistics_are_those_used(striped, tmp_path):
    encoder = random_encoder()
    extract(striped, encoder, out=tmp_path / "features", **CPU)
    stored = load_file(tmp_path / "features" / "statistics.safetensors")
    assert list(stored) == sorted(statistics(encoder.network))
    where = {"precision": "float32", "device": torch.device("cpu"), "progress": False}
    set_statistics(encoder.network, striped.split("train"), preprocessing=preprocessing_of(TINY), **where)
    assert torch.equal(stored["conv6.mean"], statistics(encoder.network)["conv6.mean"])


def test_value_of_pixel_features(striped, tmp_path):
    pixels = extract(striped, PIXELS, out=tmp_path / "pixels", dtype="float32", **CPU)
    np.testing.assert_allclose(pixels.features, striped.images.reshape(360, -1) / 255, rtol=1e-6)


def test_features_that_are_nan_are_refused(striped, tmp_path):
    encoder = random_encoder()
    with torch.no_grad():
        encoder.network.discriminator.blocks[5].conv.weight.fill_(float("inf"))
    with pytest.raises(EvalkitError, match="layer conv6 gives nan, expected finite numbers; the weights"):
        extract(striped, encoder, out=tmp_path / "features", **CPU)


def test_a_truncated_feature_file_is_refused(striped, tmp_path):
    extract(striped, PIXELS, out=tmp_path / "pixels", **CPU)
    path = tmp_path / "pixels" / "features.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="features.npy: .* bytes, the manifest says"):
        load_features(tmp_path / "pixels")


def test_encoders_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(EvalkitError, match="no run in this workspace; make one with `evalkit train-gan`"):
        load_encoder("latest", home=tmp_path)
    with pytest.raises(EvalkitError, match="nothing: no such run"):
        load_encoder("nothing", home=tmp_path)
    with pytest.raises(EvalkitError, match="its discriminator takes the class"):
        load_encoder("random:mnist", home=tmp_path)


def test_a_checkpoint_by_its_number_of_updates_is_that_one_of_the_run(trained):
    encoder = load_encoder("tiny@2", home=trained)
    assert encoder.name == "tiny@2"
    assert encoder.sha256 == load_encoder("tiny", home=trained).sha256
    with pytest.raises(ArtifactError, match="tiny: no checkpoint after 3 D updates; it has 2"):
        load_encoder("tiny@3", home=trained)

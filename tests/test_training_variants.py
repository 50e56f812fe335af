"""Beyond the paper's recipe and one process: losses, spectral norm, moving average, flips, shared minibatches."""

import copy
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL_RECIPE as SMALL
from helpers import TRAIN_OPTIONS as OPTIONS
from helpers import assert_equal_weights, weights
from safetensors.torch import load_file
from torch import nn

from evalkit.artifacts import read_manifest, sha256_file
from evalkit.encoders import load_encoder
from evalkit.errors import ArtifactError, EvalkitError
from evalkit.evaluation.record import facts_of
from evalkit.features.extract import extract
from evalkit.gan.checkpoint import (
    RUN_KIND,
    TrainingSegment,
    extend_history,
    new_state,
    read_checkpoint,
    restore,
    save_checkpoint,
)
from evalkit.gan.minibatches import DISCRIMINATOR, GENERATOR, Minibatches
from evalkit.gan.networks import Discriminator, build_networks
from evalkit.gan.norms import SpectralNorm, SyncBatchNorm
from evalkit.gan.recipes import override
from evalkit.gan.run_dir import latest_checkpoint
from evalkit.gan.steps import average_step, discriminator_loss, discriminator_step, generator_loss, generator_step
from evalkit.gan.train import TrainOptions, train
from evalkit.images.imageset import Rows
from evalkit.pretrained.import_weights import read_trained
from evalkit.pretrained.store import save_pretrained
from evalkit.runtime import ALONE, Ranks, arithmetic
from evalkit.workspace import Workspace

CPU = torch.device("cpu")
EMA = {"g_ema": 0.9, "d_ema": 0.8}
SPECTRAL_EMA = {"d_norm": "spectral", "d_ema": 0.8}
SPECTRAL = override(SMALL, {"d_norm": "spectral", "loss": "hinge"})


# -- losses, spectral norm, moving average


def test_value_of_the_hinge_loss():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 1.0])
    assert float(discriminator_loss(real, fake, SPECTRAL)) == pytest.approx(0.25 + 1.0)
    assert float(generator_loss(fake, SPECTRAL)) == pytest.approx(0.5)


def test_reference_spectral_norm_of_every_weight():
    discriminator = build_networks(SPECTRAL, seed=3)[1].eval()
    for module in discriminator.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            largest = torch.linalg.svdvals(module.weight.detach().flatten(1).double())[0]
            assert float(largest) == pytest.approx(1, abs=0.02)  # power iterations from a random start


def test_reference_gradient_through_the_spectral_norm():
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, generator=random, dtype=torch.float64, requires_grad=True)
    norm = SpectralNorm(weight).eval()
    norm.reset(weight.detach(), random)
    norm._iterate(weight.detach(), 200)
    to = torch.randn(3, 5, generator=random, dtype=torch.float64)
    ours = torch.autograd.grad((norm(weight) * to).sum(), weight)[0]
    exact = torch.autograd.grad((weight / torch.linalg.matrix_norm(weight, 2) * to).sum(), weight)[0]
    torch.testing.assert_close(ours, exact)


def test_spectral_features_are_those_of_the_normalised_weights(striped, tmp_path):
    train(striped, tmp_path / "runs" / "sn", SPECTRAL, options=OPTIONS)
    checkpoint = latest_checkpoint(tmp_path / "runs" / "sn")
    encoder = load_encoder(str(checkpoint), home=tmp_path)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    found = encoder.network.eval().optimized_for_inference(
        ["conv1", "conv2", "conv3"], precision="float32", sample=images
    )(images)
    stored = load_file(checkpoint / "discriminator.safetensors")
    x = images.double()
    for i in range(3):
        raw = stored[f"blocks.{i}.conv.parametrizations.weight.original"].double()
        left, right = (
            stored[f"blocks.{i}.conv.parametrizations.weight.0.{side}"].double() for side in ("left", "right")
        )
        weight = raw / (left @ raw.flatten(1) @ right)
        x = torch.nn.functional.conv2d(x, weight, stored[f"blocks.{i}.conv.bias"].double(), stride=2, padding=2)
        x = torch.where(x > 0, x, 0.2 * x)
        torch.testing.assert_close(found[f"conv{i + 1}"].double(), x, rtol=1e-4, atol=1e-5)  # float32 convolutions


def test_value_of_the_moving_average():
    recipe = override(SMALL, {"g_ema": 0.9})
    average, generator = build_networks(recipe, seed=1)[0], build_networks(recipe, seed=2)[0]
    expected = [0.9 * a + 0.1 * g for a, g in zip(average.parameters(), generator.parameters(), strict=True)]
    average_step(average, generator, 0.9)
    torch.testing.assert_close(list(average.parameters()), expected)


@pytest.mark.parametrize("d_norm", ["batch", "spectral"])
def test_moving_average_of_the_discriminator_is_the_encoder(striped, tmp_path, d_norm):
    recipe = override(SMALL, {"d_ema": 0.75, "d_updates": 1, "d_norm": d_norm})
    before = build_networks(recipe, seed=OPTIONS.seed)[1]
    checkpoint = train(striped, tmp_path / "run", recipe, options=OPTIONS)
    average, now = (load_file(checkpoint / f"discriminator{end}.safetensors") for end in ("_average", ""))
    for name, value in before.named_parameters():
        torch.testing.assert_close(average[name], 0.75 * value.detach() + 0.25 * now[name])
    buffers = [name for name, _ in before.named_buffers()]
    assert buffers and (d_norm == "spectral" or all(torch.equal(average[name], now[name]) for name in buffers))
    encoder = load_encoder(str(checkpoint), home=tmp_path)
    found = encoder.network.discriminator.state_dict()
    assert all(torch.equal(found[name], value) for name, value in average.items())
    assert encoder.sha256 == sha256_file(checkpoint / "discriminator_average.safetensors")


def test_singular_vectors_of_the_moving_average_are_its_own():
    recipe = override(SPECTRAL, {"d_ema": 0.5})
    average, network = (build_networks(recipe, seed=seed)[1] for seed in (1, 2))
    for decay in [0.5, *[1.0] * 300]:  # with 1 the average stays; its power iterations go on
        average_step(average, network, decay)
    average.eval()
    conv = average.blocks[1].conv
    assert torch.linalg.matrix_norm(conv.weight.detach().flatten(1), ord=2) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "values",
    [EMA, SPECTRAL_EMA, {"d_norm": "spectral", "loss": "hinge"}, {"random_flip": True, "input_noise_std": 0.1}],
)
def test_variants_resume_as_an_undisturbed_run(striped, tmp_path, values):
    recipe = override(SMALL, values)
    whole = train(striped, tmp_path / "whole", recipe, options=OPTIONS)
    train(striped, tmp_path / "parts", override(recipe, {"d_updates": 2}), options=OPTIONS)
    assert_equal_weights(whole, train(striped, tmp_path / "parts", recipe, options=OPTIONS))
    for network in [name for name, decay in (("generator", recipe.g_ema), ("discriminator", recipe.d_ema)) if decay]:
        ends = [
            load_file(tmp_path / run / f"checkpoints/d-00000006/{network}_average.safetensors")
            for run in ("whole", "parts")
        ]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_moving_averages_leave_the_training_as_it_is(striped, tmp_path):
    plain = train(striped, tmp_path / "plain", SMALL, options=OPTIONS)
    assert_equal_weights(plain, train(striped, tmp_path / "ema", override(SMALL, EMA), options=OPTIONS))


@pytest.mark.parametrize("key", EMA)
def test_decay_of_one_is_refused(key):
    with pytest.raises(EvalkitError, match=f"{key} = 1.0, expected a decay below 1, like 0.999"):
        override(SMALL, {key: 1.0})


def test_flips_mirror_half_of_the_images(striped):
    plain, flipped = (
        Minibatches(striped, override(SMALL, {"random_flip": flips}), seed=0, device=CPU).real(1)
        for flips in (False, True)
    )
    same = [torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(plain, flipped, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True)) and 8 <= sum(same) <= 24


@pytest.fixture
def places(striped):
    """An image set whose every pixel is (image, row, column)."""
    image, y, x = np.meshgrid(np.arange(200), np.arange(40), np.arange(36), indexing="ij")
    labels = np.zeros(200, np.int64)
    return replace(
        striped, images=np.stack([image, y, x], 3).astype(np.uint8), labels=labels, splits={"train": (0, 200)}
    )


@pytest.mark.parametrize("view", [False, True])
def test_value_of_crops(places, view):
    if view:  # of all of them: as deduplication makes it
        places = replace(places, images=Rows(places.images, np.arange(200)))
    recipe = override(SMALL, {"random_crop": True})
    feed = Minibatches(places, recipe, seed=0, device=CPU)
    corners = []
    for t in (*range(1, 120, 2), 2):  # ahead of time but for the last
        crops = ((feed.real(t) + 1) * 127.5).round().int()
        assert crops[:, 0].equal(torch.from_numpy(feed.rows(t)).int()[:, None, None].expand(-1, 32, 32))
        corners.append(crops[:, 1:, 0, 0])
        for channel, offsets in ((1, torch.arange(32)[:, None]), (2, torch.arange(32)[None])):
            assert crops[:, channel].equal((crops[:, channel, :1, :1] + offsets).expand(-1, 32, 32).int())
    assert torch.cat(corners).amin(0).tolist() == [0, 0] and torch.cat(corners).amax(0).tolist() == [8, 4]
    again = Minibatches(places, recipe, seed=0, device=CPU)
    assert torch.equal(again.real(3), feed.real(3))


def test_source_statistics_of_larger_images_are_refused(striped, places, tmp_path):
    checkpoint = train(
        places, tmp_path / "run", override(SMALL, {"random_crop": True, "d_updates": 1}), options=OPTIONS
    )
    encoder = load_encoder(str(checkpoint), home=tmp_path)
    with pytest.raises(EvalkitError, match="batch norm `source` takes images of 32x32, these are 40x36"):
        extract(striped, encoder, out=tmp_path / "features", batch_norm="source", source_images=places, device="cpu")


def test_larger_images_without_crops_are_refused(places):
    with pytest.raises(EvalkitError, match="images of 40x36, recipe digits takes 32x32; prepare"):
        Minibatches(places, SMALL, seed=0, device=CPU)
    with pytest.raises(EvalkitError, match="takes 48x48 or larger; prepare"):
        Minibatches(places, override(SMALL, {"random_crop": True, "size": 48}), seed=0, device=CPU)


def test_value_of_noise(striped):
    recipe = override(SMALL, {"input_noise_std": 0.5})
    feed = Minibatches(striped, recipe, seed=0, device=CPU)
    noise = feed.noise(1, 2)
    assert noise.std() == pytest.approx(0.5, rel=0.02) and abs(float(noise.mean())) < 0.01
    assert abs(float((noise[0] * noise[1]).mean())) < 0.01 and torch.equal(noise, feed.noise(1, 2))
    assert (
        not torch.equal(noise, feed.noise(3, 2)) and Minibatches(striped, SMALL, seed=0, device=CPU).noise(1, 2) is None
    )


def test_reference_losses_on_images_with_noise(striped):
    feed = Minibatches(striped, override(SMALL, {"input_noise_std": 0.5}), seed=0, device=CPU)
    generator, discriminator = build_networks(SMALL, seed=1)
    real, z, noise = feed.real(1), feed.z(1, DISCRIMINATOR), feed.noise(1, 2)
    with torch.no_grad():
        fake = generator(z) + noise[1]
        expected = discriminator_loss(discriminator(real + noise[0]), discriminator(fake), SMALL)
        expected_g = generator_loss(discriminator(fake), SMALL)
    frozen = [torch.optim.SGD(network.parameters(), lr=0.0) for network in (generator, discriminator)]
    loss = generator_step(generator, discriminator, frozen[0], z, noise=noise[1:])
    assert float(loss) == pytest.approx(float(expected_g), rel=1e-5)
    losses = discriminator_step(generator, discriminator, frozen[1], real, z, noise=noise)
    assert float(losses[0]) == pytest.approx(float(expected), rel=1e-5)


# -- bfloat16


def test_bound_of_bfloat16_updates():
    """One D update in bfloat16 moves the weights as float32 does, within the rounding of 8 bits."""
    random = torch.Generator().manual_seed(0)
    real, z = torch.rand(64, 3, 32, 32, generator=random) * 2 - 1, torch.rand(64, 8, generator=random) * 2 - 1
    moved, losses = [], []
    for precision in ("float32", "bfloat16"):
        state = new_state(override(SMALL, {"base_channels": 16}), seed=0, device=CPU)
        optimizer = torch.optim.SGD(state.discriminator.parameters(), lr=1.0)
        before = [p.detach().clone() for p in state.discriminator.parameters()]
        with arithmetic(precision, CPU):
            loss, *_ = discriminator_step(state.generator, state.discriminator, optimizer, real, z)
        losses.append(float(loss))
        moved.append([b - p.detach() for b, p in zip(before, state.discriminator.parameters(), strict=True)])
    assert losses[1] == pytest.approx(losses[0], rel=0.01)  # bfloat16 keeps 2-3 digits
    for exact, rough in zip(*moved, strict=True):
        assert float((rough - exact).norm() / exact.norm()) < 0.1  # sums of many roundings of 0.4 %


# -- images beyond memory


def test_images_read_ahead_are_those_of_the_minibatch(striped):
    ahead = Minibatches(striped, SMALL, seed=4, device=CPU)
    for t in (1, 3, 5, 7, 2, 9):  # in D's order, across an epoch's end, and out of order as after a rewind
        expected = torch.from_numpy(striped.split("train")[ahead.rows(t)]).permute(0, 3, 1, 2) / 127.5 - 1
        torch.testing.assert_close(ahead.real(t), expected)


def test_a_rewind_draws_order_and_z_anew(striped):
    minibatches = Minibatches(striped, SMALL, seed=4, device=CPU)
    before = minibatches.rows(3), minibatches.z(3, 0)
    minibatches.rewinds = 1
    assert not np.array_equal(before[0], minibatches.rows(3)) and not torch.equal(before[1], minibatches.z(3, 0))
    other = Minibatches(striped, SMALL, seed=5, device=CPU)
    assert not torch.equal(before[1], other.z(3, 0))


# -- several processes


class Half(Ranks):
    """One of two ranks that never talk."""

    def __init__(self, number):
        self.count, self.number = 2, number


def test_ranks_share_a_minibatch(places):
    recipe = override(SMALL, {"random_flip": True, "random_crop": True, "input_noise_std": 0.1})
    whole, *halves = (Minibatches(places, recipe, seed=1, device=CPU, ranks=r) for r in (ALONE, Half(0), Half(1)))
    assert torch.equal(whole.real(3), torch.cat([half.real(3) for half in halves]))
    assert torch.equal(whole.z(3, 0), torch.cat([half.z(3, 0) for half in halves]))
    assert torch.equal(whole.noise(3, 2), torch.cat([half.noise(3, 2) for half in halves], dim=1))
    with pytest.raises(EvalkitError, match="batch_size = 31 on 2 processes, expected a multiple"):
        Minibatches(places, override(recipe, {"batch_size": 31}), seed=1, device=CPU, ranks=Half(0))


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (8, 5)), (nn.BatchNorm2d, (8, 5, 3, 3))])
def test_reference_synced_norm_of_one_rank(kind, shape):
    torch.manual_seed(0)
    norm, synced = kind(5), SyncBatchNorm(kind(5), ALONE)
    x, to = torch.randn(shape, requires_grad=True), torch.randn(shape)
    results = [(y := module(x), torch.autograd.grad((y * to).sum(), x)[0]) for module in (norm, synced)]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # float32
    torch.testing.assert_close(synced.state_dict(), norm.state_dict())


RANK_SCRIPT = """
import sys
import torch; torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from pathlib import Path
from helpers import SMALL_RECIPE as SMALL
from evalkit.gan.recipes import override
from evalkit.gan.recipes import TrainOptions
from evalkit.gan.train import train
from evalkit.images.imageset import Rows
from evalkit.images.imageset import load_images
options = TrainOptions(device="cpu", precision="float32", checkpoint_updates=2, log_updates=1, sync_batch_norm=True)
train(load_images(Path({images!r})), Path({run!r}), override(SMALL, {{"d_updates": {d_updates}}}), options=options)
"""


def run_ranks(count, script):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **about, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, errors


def test_two_processes_train_as_one_and_one_goes_on(striped, tmp_path):
    script = RANK_SCRIPT.format(
        tests=str(Path(__file__).parent), images=str(tmp_path / "striped"), run=str(tmp_path / "two"), d_updates=4
    )
    run_ranks(2, script)
    by_two = {"from_d_updates": 0, "processes": 2, "sync_batch_norm": True, "precision": "float32"}
    assert read_checkpoint(latest_checkpoint(tmp_path / "two"))["settings"]["history"] == [by_two]
    settings = read_manifest(tmp_path / "two", RUN_KIND)["settings"]
    assert (settings["processes"], settings["sync_batch_norm"]) == (2, True)
    train(striped, tmp_path / "two", SMALL, options=OPTIONS)  # with another number of processes
    by_one = {"from_d_updates": 4, "processes": 1, "sync_batch_norm": False, "precision": "float32"}
    assert read_checkpoint(latest_checkpoint(tmp_path / "two"))["settings"]["history"] == [by_two, by_one]
    one = weights(train(striped, tmp_path / "one", SMALL, options=OPTIONS))
    two = weights(latest_checkpoint(tmp_path / "two"))
    moved = 6 * SMALL.lr  # how far Adam can have moved a weight
    for name in one:
        if "exp_avg" not in name:
            # equal but for the order of float32 sums, which Adam magnifies where a gradient nearly vanishes
            assert float((one[name].double() - two[name].double()).abs().mean()) < 0.01 * moved, name
    losses = [
        [float(line.split(",")[4]) for line in (tmp_path / run / "metrics.csv").read_text().splitlines()[1:]]
        for run in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[1]) == 6


def test_value_of_the_history():
    alone, two = (TrainingSegment(0, count, False, "float32") for count in (1, 2))
    assert extend_history((), alone) == (alone,)
    assert extend_history((alone,), replace(alone, from_d_updates=4)) == (alone,)  # as before
    history = extend_history((alone,), replace(two, from_d_updates=4))
    assert history == (alone, replace(two, from_d_updates=4))
    assert extend_history(history, replace(alone, from_d_updates=4)) == (alone,)  # two processes left nothing
    assert extend_history(history, replace(alone, from_d_updates=2)) == (alone,)  # nor does a step back


def test_runs_from_before_the_history_go_on(striped, tmp_path):
    run = tmp_path / "run"
    train(striped, run, override(SMALL, {"d_updates": 4}), options=OPTIONS)
    for path, keys in ((run, ("processes", "sync_batch_norm")), (latest_checkpoint(run), ("history",))):
        manifest = json.loads((path / "manifest.json").read_text())
        for key in keys:
            del manifest["settings"][key]
        (path / "manifest.json").write_text(json.dumps(manifest))
    found = read_checkpoint(train(striped, run, SMALL, options=OPTIONS))["settings"]["history"]
    assert found == [{"from_d_updates": 4, "processes": 1, "sync_batch_norm": False, "precision": "float32"}]


def test_checkpoint_of_a_spectral_network_round_trips(tmp_path):
    state, other = (new_state(SPECTRAL, seed=seed, device=CPU) for seed in (1, 2))
    checkpoint = save_checkpoint(tmp_path, state, made_from={"images_sha256": ""})
    restore(other, checkpoint)
    first, second = state.discriminator.state_dict(), other.discriminator.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert isinstance(other.discriminator, Discriminator) and not np.isnan(float(first["out.bias"]))


def test_variants_are_options_of_training_not_of_the_run(striped, tmp_path):
    train(striped, tmp_path / "run", override(SMALL, {"d_updates": 2}), options=OPTIONS)
    with pytest.raises(EvalkitError, match="made with loss = bce, asked for hinge; give another --name"):
        train(striped, tmp_path / "run", override(SMALL, {"loss": "hinge"}), options=OPTIONS)
    with pytest.raises(EvalkitError, match="on_collapse = 'go on', expected stop or rewind"):
        TrainOptions(on_collapse="go on")


# -- starting from another run's checkpoint


def test_started_run_goes_on_from_weights_and_moments(striped, tmp_path):
    first = train(striped, tmp_path / "first", SMALL, options=OPTIONS)
    recipe = override(SMALL, {"batch_size": 16, "lr": 1e-4, "d_updates": 1, "g_ema": 0.5, "d_ema": 0.5})
    started = train(striped, tmp_path / "second", recipe, options=OPTIONS, start=first)
    state = new_state(override(recipe, {"g_ema": 0.0, "d_ema": 0.0}), seed=9, device=CPU)
    restore(state, first)
    networks = {"generator": state.generator, "discriminator": state.discriminator}
    before = {name: copy.deepcopy(network) for name, network in networks.items()}
    feed = Minibatches(striped, recipe, seed=OPTIONS.seed, device=CPU)  # order and z as of a new run
    with arithmetic("float32", CPU):
        generator_step(state.generator, state.discriminator, state.g_optimizer, feed.z(0, GENERATOR))
        real, z = feed.real(1), feed.z(1, DISCRIMINATOR)
        discriminator_step(state.generator, state.discriminator, state.d_optimizer, real, z)
    state.minibatches, state.history = 2, ()
    assert_equal_weights(save_checkpoint(tmp_path / "expected", state, made_from={}), started)
    for which, network in networks.items():
        average, start = load_file(started / f"{which}_average.safetensors"), dict(before[which].named_parameters())
        for name, now in network.named_parameters():
            torch.testing.assert_close(average[name], ((start[name] + now) / 2).detach())


def test_checkpoints_say_what_their_run_started_from(striped, tmp_path):
    first = train(striped, tmp_path / "first", SMALL, options=OPTIONS)
    recipe = override(SMALL, {"batch_size": 16, "d_updates": 1})
    second = train(striped, tmp_path / "second", recipe, options=OPTIONS, start=first)
    third = train(striped, tmp_path / "third", recipe, options=OPTIONS, start=second)
    said = read_checkpoint(third)["made_from"]["start"]
    assert (said["run"], said["d_updates"], said["recipe"]["batch_size"]) == ("second", 1, 16)
    assert said["sha256"]["discriminator.safetensors"] == sha256_file(second / "discriminator.safetensors")
    assert (said["start"]["run"], said["start"]["d_updates"]) == ("first", 6)
    longer = train(striped, tmp_path / "third", override(recipe, {"d_updates": 2}), options=OPTIONS)
    assert read_checkpoint(longer)["made_from"]["start"] == said
    weights = read_trained(third, Workspace(tmp_path), source="", licence="")
    card = (save_pretrained(weights, tmp_path / "mine") / "card.md").read_text()
    assert "started_from: second after 1 D updates with batch_size 16, lr 0.0002, itself from first after 6" in card
    assert "--start second@1" in card and weights.settings.about == "recipe digits after 8 D updates"
    assert facts_of(read_checkpoint(third), Workspace(tmp_path))["d_updates_before"] == 7


def test_started_run_takes_over_a_moving_average(striped, tmp_path):
    first = train(striped, tmp_path / "first", override(SMALL, EMA), options=OPTIONS)
    recipe = override(SMALL, EMA | {"d_updates": 1})
    started = train(striped, tmp_path / "second", recipe, options=OPTIONS, start=first)
    for network, decay in (("generator", EMA["g_ema"]), ("discriminator", EMA["d_ema"])):
        before, after, now = (
            load_file(path / f"{network}{end}.safetensors")
            for path, end in ((first, "_average"), (started, "_average"), (started, ""))
        )
        name = next(name for name in before if name.endswith("weight"))
        torch.testing.assert_close(after[name], decay * before[name] + (1 - decay) * now[name])


def test_another_run_of_the_same_name_is_no_stage(striped, tmp_path):
    first = train(striped, tmp_path / "a" / "run", SMALL, options=OPTIONS)
    second = train(striped, tmp_path / "b" / "run", SMALL, options=OPTIONS, start=first)
    weights = read_trained(second, Workspace(tmp_path), source="", licence="")
    assert weights.settings.run["hours"].endswith(", without run")
    third = train(striped, tmp_path / "b" / "third", SMALL, options=OPTIONS, start=second)
    shutil.rmtree(tmp_path / "b" / "run")
    train(striped, tmp_path / "b" / "run", override(SMALL, {"lr": 1e-3}), options=OPTIONS)
    weights = read_trained(third, Workspace(tmp_path), source="", licence="")
    assert weights.settings.run["hours"].endswith(", without run, run")


def test_weights_hand_on_the_curve_and_hours_of_all_runs_they_came_from(striped, tmp_path):
    first = train(striped, tmp_path / "first", SMALL, options=OPTIONS)
    second = train(striped, tmp_path / "second", override(SMALL, {"d_updates": 3}), options=OPTIONS, start=first)
    names = "d_updates,dataset,labels_per_class,validation_percent"
    for run, probes, seconds in (("first", ((2, 50), (6, 51), (9, 99)), 3600), ("second", ((0, 51), (3, 52)), 1800)):
        rows = [f"{updates},digits,10,{percent}" for updates, percent in probes]
        (tmp_path / run / "probe.csv").write_text("\n".join([names, *rows]) + "\n")
        (tmp_path / run / "metrics.csv").write_text(f"d_updates,seconds\n1,1\n2,{seconds}\n10,99999\n")
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    del manifest["settings"]["recipe"]["d_ema"]  # as of an evalkit that did not have it
    (tmp_path / "first" / "manifest.json").write_text(json.dumps(manifest))
    weights = read_trained(second, Workspace(tmp_path), source="", licence="")
    # both probed at 6: one row is left; the first run went on to 9, which is not on the way
    expected = [names, "2,digits,10,50", "6,digits,10,51", "9,digits,10,52"]
    assert weights.training_logs["probe.csv"].decode().split() == expected
    assert weights.settings.run["hours"] == "1.5"
    assert f"samples-{9:08d}.png" in weights.training_logs
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    weights = read_trained(second, Workspace(tmp_path), source="", licence="")
    assert weights.settings.run["hours"] == "0.5, without first"
    assert weights.training_logs["probe.csv"].decode().split() == [names, "6,digits,10,51", "9,digits,10,52"]


def test_start_that_does_not_fit_is_refused(striped, tmp_path):
    first = train(striped, tmp_path / "first", SMALL, options=OPTIONS)
    run = tmp_path / "second"
    with pytest.raises(ArtifactError, match="generator.safetensors: these are not the weights of this network"):
        train(striped, run, override(SMALL, {"base_channels": 8}), options=OPTIONS, start=first)
    train(striped, run, SMALL, options=OPTIONS)
    with pytest.raises(EvalkitError, match=r"second: started from fresh weights \(no --start\), asked for first@6"):
        train(striped, run, SMALL, options=OPTIONS, start=first)

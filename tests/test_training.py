"""Training: steps against a float64 reference, resume against an uninterrupted run, schedules, and what is refused."""

import dataclasses
import gc
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import SMALL_RECIPE as SMALL
from helpers import TRAIN_OPTIONS as OPTIONS
from helpers import assert_equal_weights
from torch.nn import functional as F

from evalkit.errors import ArtifactError, EvalkitError
from evalkit.gan.checkpoint import TrainingState, new_state, read_checkpoint
from evalkit.gan.minibatches import DISCRIMINATOR, GENERATOR, Minibatches
from evalkit.gan.networks import build_networks
from evalkit.gan.recipes import override
from evalkit.gan.run_dir import checkpoints, latest_checkpoint
from evalkit.gan.steps import discriminator_step, generator_step, make_optimizer
from evalkit.gan.train import train, train_gan
from evalkit.gan.trainer import Trainer, _set_learning_rate
from evalkit.images.imageset import load_images

# -- reference: the same update written out by hand in float64


def normalize(x, gain, bias, eps=1e-8):
    axes = (0, 2, 3) if x.ndim == 4 else (0,)
    mean = x.mean(axes, keepdim=True)
    variance = ((x - mean) ** 2).mean(axes, keepdim=True)  # biased
    shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
    return (x - mean) / torch.sqrt(variance + eps) * gain.view(shape) + bias.view(shape)


def reference_generator(p, z):
    x = torch.relu(normalize(z @ p["linears.0.weight"].T, p["linear_norms.0.weight"], p["linear_norms.0.bias"]))
    x = x.view(len(z), -1, 4, 4)
    for i in range(3):
        x = F.conv_transpose2d(x, p[f"deconvs.{i}.weight"], stride=2, padding=2, output_padding=1)
        if i < 2:
            x = torch.relu(normalize(x, p[f"deconv_norms.{i}.weight"], p[f"deconv_norms.{i}.bias"]))
    return torch.tanh(x)


def reference_logits(p, x):
    for i in range(3):
        x = F.conv2d(x, p[f"blocks.{i}.conv.weight"], stride=2, padding=2)
        if i > 0:
            x = normalize(x, p[f"blocks.{i}.norm.weight"], p[f"blocks.{i}.norm.bias"])
        x = torch.where(x > 0, x, 0.2 * x)
    return x.flatten(1) @ p["out.weight"][0]


def reference_adam(parameter, gradient, *, lr=2e-4, beta1=0.5, beta2=0.999, eps=1e-8, l2=1e-3):
    gradient = gradient + l2 * parameter  # coupled
    first = (1 - beta1) * gradient / (1 - beta1)
    second = (1 - beta2) * gradient**2 / (1 - beta2)
    return parameter - lr * first / (second.sqrt() + eps)


def leaves(network):
    return {name: p.detach().double().clone().requires_grad_() for name, p in network.named_parameters()}


def bce(probability, target):
    return -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()


@pytest.fixture
def networks():
    generator, discriminator = (network.double() for network in build_networks(SMALL, seed=5))
    random = torch.Generator().manual_seed(1)
    real = torch.rand(16, 3, 32, 32, generator=random, dtype=torch.float64) * 2 - 1
    z = torch.rand(16, 8, generator=random, dtype=torch.float64) * 2 - 1
    return generator, discriminator, real, z


def assert_updated(network, before, loss):
    gradients = torch.autograd.grad(loss, list(before.values()))
    for (name, start), gradient in zip(before.items(), gradients, strict=True):
        expected = reference_adam(start.detach(), gradient)
        # float64; Adam's first step divides by |gradient|, which magnifies rounding where a gradient nearly vanishes
        torch.testing.assert_close(dict(network.named_parameters())[name].detach(), expected, rtol=0, atol=1e-6 * 2e-4)


def test_reference_update_of_the_discriminator(networks):
    generator, discriminator, real, z = networks
    g, d = leaves(generator), leaves(discriminator)
    loss = bce(reference_logits(d, real).sigmoid(), 1) + bce(
        reference_logits(d, reference_generator(g, z).detach()).sigmoid(), 0
    )
    ours, *_ = discriminator_step(generator, discriminator, make_optimizer(discriminator, SMALL), real, z)
    # the step computes the loss from float32 logits
    torch.testing.assert_close(ours.double(), loss.detach(), rtol=1e-6, atol=0)
    assert_updated(discriminator, d, loss)


def test_reference_update_of_the_generator(networks):
    generator, discriminator, _, z = networks
    g, d = leaves(generator), leaves(discriminator)
    loss = bce(reference_logits(d, reference_generator(g, z)).sigmoid(), 1)
    frozen = [parameter.detach().clone() for parameter in discriminator.parameters()]
    generator_step(generator, discriminator, make_optimizer(generator, SMALL), z)
    assert_updated(generator, g, loss)
    assert all(torch.equal(a, b) for a, b in zip(frozen, discriminator.parameters(), strict=True))


# -- schedules and data order


@pytest.mark.parametrize(("schedule", "minibatches", "d", "g"), [("alternate", 7, 3, 4), ("both", 7, 7, 7)])
def test_counts_of_updates(schedule, minibatches, d, g):
    state = new_state(override(SMALL, {"schedule": schedule}), seed=0, device=torch.device("cpu"))
    state.minibatches = minibatches
    assert (state.d_updates, state.g_updates) == (d, g)


def first_weight(state, network):
    return next(getattr(state, network).parameters()).detach()


@pytest.mark.parametrize(
    ("schedule", "moved"),
    [("alternate", [["generator"], ["discriminator"]]), ("both", [["generator", "discriminator"]] * 2)],
)
def test_which_network_a_minibatch_updates(striped, tmp_path, schedule, moved):
    state = new_state(override(SMALL, {"schedule": schedule}), seed=0, device=torch.device("cpu"))
    minibatches = Minibatches(striped, state.recipe, seed=0, device=torch.device("cpu"))
    training = Trainer(tmp_path, state, minibatches, OPTIONS, precision="float32", made_from={})
    updated = []
    for t in range(2):
        before = {name: first_weight(state, name).clone() for name in ("generator", "discriminator")}
        training.step(t)
        updated.append(
            [
                name
                for name in ("generator", "discriminator")
                if not torch.equal(before[name], first_weight(state, name))
            ]
        )
    assert updated == moved


def test_epoch_has_every_image_once_and_depends_on_the_seed(striped):
    minibatches = Minibatches(striped, SMALL, seed=1, device=torch.device("cpu"))
    epoch = np.concatenate([minibatches.rows(t) for t in range(minibatches.batches_per_epoch)])
    assert len(set(epoch)) == len(epoch) == 240 // 32 * 32
    other = Minibatches(striped, SMALL, seed=2, device=torch.device("cpu"))
    assert not np.array_equal(minibatches.rows(0), other.rows(0))
    assert not torch.equal(minibatches.z(0, GENERATOR), minibatches.z(0, DISCRIMINATOR))


def test_value_of_linear_decay():
    recipe = override(SMALL, {"d_updates": 100, "lr_decay_start": 0.5, "schedule": "both"})
    state = new_state(recipe, seed=0, device=torch.device("cpu"))
    rates = []
    for state.minibatches in (0, 49, 50, 75, 99):
        _set_learning_rate(state)
        rates.append(state.d_optimizer.param_groups[0]["lr"] / recipe.lr)
    assert rates == pytest.approx([1, 1, 1, 0.5, 0.02])


# -- resume


@pytest.mark.parametrize("schedule", ["alternate", "both"])
def test_resumed_run_equals_an_uninterrupted_one(striped, tmp_path, schedule):
    recipe = override(SMALL, {"schedule": schedule})
    whole = train(striped, tmp_path / "whole", recipe, options=OPTIONS)
    train(striped, tmp_path / "parts", dataclasses.replace(recipe, d_updates=2), options=OPTIONS)
    resumed = train(striped, tmp_path / "parts", recipe, options=OPTIONS)
    assert_equal_weights(whole, resumed)
    without_seconds = [
        [
            line.split(",")[:3] + line.split(",")[4:]
            for line in (tmp_path / run / "metrics.csv").read_text().splitlines()
        ]
        for run in ("whole", "parts")
    ]
    assert without_seconds[0] == without_seconds[1]
    assert len(without_seconds[0]) == 7


TRAIN_SCRIPT = """
import sys
from pathlib import Path
from evalkit.gan.recipes import override
from evalkit.gan.train import train
from evalkit.images.imageset import load_images
sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads(2)
from helpers import SMALL_RECIPE as SMALL
from helpers import TRAIN_OPTIONS as OPTIONS
train(load_images(Path({images!r})), Path({run!r}), override(SMALL, {{"d_updates": 30}}), options=OPTIONS)
"""


def start_training(striped_path, run):

    script = TRAIN_SCRIPT.format(tests=str(Path(__file__).parent), images=str(striped_path), run=str(run))
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def wait_for_checkpoints(run, count, process):
    deadline = time.monotonic() + 60
    while len(checkpoints(run)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def train_on(images, run):
    torch.set_num_threads(2)
    train(load_images(images), run, override(SMALL, {"d_updates": 30}), options=OPTIONS)


def test_run_killed_at_ten_random_moments_equals_an_uninterrupted_one(striped, tmp_path):
    whole = train(striped, tmp_path / "whole", override(SMALL, {"d_updates": 30}), options=OPTIONS)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["evalkit.gan.train"])  # so that the moments are of training, not of importing
    random = np.random.default_rng(0)
    unharmed = 0
    for _ in range(10):
        process = processes.Process(target=train_on, args=(tmp_path / "striped", tmp_path / "killed"))
        process.start()
        process.join(random.uniform(0, 1.2))
        unharmed += process.exitcode == 0
        process.kill()
        process.join()
    assert unharmed < 10
    resumed = train(striped, tmp_path / "killed", override(SMALL, {"d_updates": 30}), options=OPTIONS)
    assert_equal_weights(whole, resumed)


def test_sigterm_writes_a_checkpoint_and_says_so(striped, tmp_path):
    process = start_training(tmp_path / "striped", tmp_path / "run")
    wait_for_checkpoints(tmp_path / "run", 1, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "checkpoint written; run the same command to resume" in errors
    done = json.loads((latest_checkpoint(tmp_path / "run") / "manifest.json").read_text())["settings"]["d_updates"]
    assert f"stopped after {done} of 30 D updates" in errors


# -- the public function


def test_objects_train_without_a_workspace_to_the_same_weights(striped, tmp_path):
    first, end = striped.splits["train"]
    expected = train(striped, tmp_path / "run", SMALL, options=OPTIONS)
    arrays = np.asarray(striped.images[first:end]), striped.labels[first:end]
    trained = train_gan(arrays, SMALL, options=OPTIONS)
    assert_equal_weights(expected, trained.checkpoint)


def test_training_without_a_workspace_leaves_no_file_behind(striped, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    trained = train_gan(striped, override(SMALL, {"d_updates": 1}), options=OPTIONS)
    checkpoint = Path(trained)
    assert trained.run.is_relative_to(tmp_path / "temporary")
    assert (checkpoint / "manifest.json").is_file()
    del trained
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_trained_gan_is_a_path_of_its_checkpoint(striped, tmp_path):
    trained = train_gan(striped, SMALL, home=tmp_path, name="small", options=OPTIONS)
    assert str(trained) == os.fspath(trained) == str(tmp_path / "runs/small/checkpoints/d-00000006")
    started = train_gan(
        striped, override(SMALL, {"d_updates": 1}), home=tmp_path, name="second", options=OPTIONS, start=trained
    )
    assert read_checkpoint(started.checkpoint)["made_from"]["start"]["run"] == "small"


def test_recipe_without_images_needs_some():
    with pytest.raises(EvalkitError, match="recipe imagenet32 names no images; give images=, or home="):
        train_gan()


def test_probe_is_any_function_of_a_checkpoint(striped):
    names = []
    train_gan(striped, SMALL, options=OPTIONS, probe=lambda checkpoint: names.append(checkpoint.name), probe_updates=3)
    assert names == ["d-00000000", "d-00000003", "d-00000006"]


# -- what is refused


def test_other_settings_for_an_existing_run_are_refused(striped, tmp_path):
    train(striped, tmp_path / "run", SMALL, options=OPTIONS)
    with pytest.raises(EvalkitError, match="made with lr = 0.0002, asked for 0.001; give another --name"):
        train(striped, tmp_path / "run", override(SMALL, {"lr": 1e-3}), options=OPTIONS)


def test_checkpoint_cut_short_is_refused(striped, tmp_path):
    checkpoint = train(striped, tmp_path / "run", SMALL, options=OPTIONS)
    weights_file = checkpoint / "discriminator.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match="discriminator.safetensors: .* bytes, the manifest says .*or delete"):
        train(striped, tmp_path / "run", override(SMALL, {"d_updates": 9}), options=OPTIONS)
    shutil.rmtree(checkpoint)  # what the message says to do
    train(striped, tmp_path / "run", SMALL, options=OPTIONS)


def test_checkpoint_of_another_recipe_is_refused(striped, tmp_path):
    train(striped, tmp_path / "run", SMALL, options=OPTIONS)
    other = train(striped, tmp_path / "other", override(SMALL, {"base_channels": 8, "d_updates": 8}), options=OPTIONS)
    shutil.copytree(other, tmp_path / "run" / "checkpoints" / other.name)
    with pytest.raises(ArtifactError, match="not the weights of this network .of another shape: deconv"):
        train(striped, tmp_path / "run", override(SMALL, {"d_updates": 9}), options=OPTIONS)
    assert (tmp_path / "run/checkpoints/d-00000006/manifest.json").is_file()


def test_missing_images_are_reported(striped, tmp_path):
    train(striped, tmp_path / "run", override(SMALL, {"d_updates": 2}), options=OPTIONS)
    (tmp_path / "striped" / "images.npy").unlink()
    with pytest.raises(ArtifactError, match="images.npy: missing, the manifest says .* make the artifact again"):
        train(load_images(tmp_path / "striped"), tmp_path / "run", SMALL, options=OPTIONS)
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["d-00000002"]


def test_flipped_byte_in_a_checkpoint_is_refused(striped, tmp_path):
    checkpoint = train(striped, tmp_path / "run", SMALL, options=OPTIONS)
    content = bytearray((checkpoint / "generator.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "generator.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="SHA-256 is not the manifest's"):
        train(striped, tmp_path / "run", override(SMALL, {"d_updates": 9}), options=OPTIONS)


def test_nan_loss_stops_the_run_before_it_is_saved(striped, tmp_path, monkeypatch):
    state = new_state(SMALL, seed=0, device=torch.device("cpu"))
    with torch.no_grad():
        state.discriminator.out.weight.fill_(float("nan"))
    monkeypatch.setattr("evalkit.gan.train.new_state", lambda *args, **kwargs: state)
    with pytest.raises(EvalkitError, match="no longer finite after 1 D updates"):
        train(striped, tmp_path / "run", SMALL, options=OPTIONS)
    assert isinstance(state, TrainingState)
    assert checkpoints(tmp_path / "run") == []


def test_images_that_do_not_fit_are_refused(striped, tmp_path):
    with pytest.raises(EvalkitError, match="images of 32x32, recipe digits takes 64x64; prepare them with --size 64"):
        train(striped, tmp_path / "run", override(SMALL, {"size": 64}), options=OPTIONS)
    with pytest.raises(EvalkitError, match="240 images, fewer than one minibatch of 256"):
        train(striped, tmp_path / "run", override(SMALL, {"batch_size": 256}), options=OPTIONS)

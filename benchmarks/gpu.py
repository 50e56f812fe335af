"""Check on a GPU: do the CUDA paths agree with the CPU, and how fast are they?

    python benchmarks/gpu.py [--device cuda] [--width 128] [--features features.npy] [--rows 60000] [--out gpu.csv]

Checks one update of each network, features and both SVM solvers against the CPU in float32, then times training at the
recipe's batch size on random images, the SVM at 7 C on five sixths of its rows, and its few-label protocol.
Prints and writes one row per check or time: name, value, unit. The exit status is 1 if a check exceeds its bound.
"""

import argparse
import csv
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

import gpu_solver
import numpy as np
import torch

from evalkit.encoders.dcgan import discriminator_encoder
from evalkit.features.batchnorm import set_statistics
from evalkit.features.options import LayerSelection
from evalkit.features.pooling import feature_columns, join, pool_output
from evalkit.gan.checkpoint import new_state
from evalkit.gan.networks import draw_z, to_network_range
from evalkit.gan.recipes import RECIPES, override
from evalkit.gan.steps import discriminator_step, generator_step
from evalkit.runtime import arithmetic, describe_device, resolve_device

IMAGES = np.random.default_rng(0).integers(0, 256, (1024, 32, 32, 3), dtype=np.uint8)
TIMED_STEPS = 20


def step(state, device, precision="float32"):
    """One update of G and of D on the same images and z on any device; returns both losses."""
    real = to_network_range(torch.from_numpy(IMAGES[: state.recipe.batch_size]).to(device), state.recipe)
    z = draw_z(state.recipe.batch_size, state.recipe, torch.Generator().manual_seed(1)).to(device)
    networks = (state.generator, state.discriminator)
    with arithmetic(precision, device):
        g_loss = generator_step(*networks, state.g_optimizer, z)
        d_loss, *_ = discriminator_step(*networks, state.d_optimizer, real, z)
    return float(g_loss), float(d_loss)


def features(recipe, device):
    """float32 features of the images from random weights, with batch-norm statistics of the same images."""
    encoder = discriminator_encoder("random", new_state(recipe, seed=0, device=device).discriminator, sha256="")
    step, names = encoder.preprocessing, encoder.network.default
    set_statistics(encoder.network, IMAGES, preprocessing=step, precision="float32", device=device, progress=False)
    network = encoder.network.optimized_for_inference(names, precision="float32", sample=torch.empty(0)).to(device)
    with torch.inference_mode():
        maps = network(step(torch.from_numpy(IMAGES).to(device)), names, None)
    layers = feature_columns({name: each.shape[1:] for name, each in maps.items()}, LayerSelection())
    return join({name: pool_output(each, LayerSelection()) for name, each in maps.items()}, layers).cpu().numpy()


def checks(recipe, device):
    """(name, value, bound): differences between the device and the CPU."""
    cpu = torch.device("cpu")
    losses = [step(new_state(recipe, seed=0, device=d), d) for d in (cpu, device)]
    yield "losses of one update, largest relative difference", float(np.max(np.abs(np.divide(*losses) - 1))), 1e-4
    ours, theirs = features(recipe, cpu), features(recipe, device)
    yield "features, largest difference", float(np.abs(ours - theirs).max()), 1e-3


def times(recipe, device):
    """(name, value, unit): training at the recipe's batch size, one update of each network per step."""
    for precision in ("float32", "bfloat16"):
        state = new_state(recipe, seed=0, device=device)
        step(state, device, precision)
        started = time.perf_counter()
        for _ in range(TIMED_STEPS):
            step(state, device, precision)  # reads the losses, so it waits for the device
        seconds = (time.perf_counter() - started) / TIMED_STEPS
        yield f"training in {precision}, one update of each network", seconds * 1e3, "ms"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument(
        "--features", type=Path, help="features.npy for the SVM, with labels.npy next to it [default: synthetic]"
    )
    parser.add_argument("--rows", type=int, default=60_000, help="rows for the SVM, of which a sixth are predicted")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "gpu.csv")
    arguments = parser.parse_args()
    device, recipe = (
        resolve_device(arguments.device),
        override(RECIPES["imagenet32"], {"base_channels": arguments.width}),
    )
    about = f"{describe_device(device)}, torch {torch.__version__}, width {recipe.base_channels}"
    rows, failed = [("device", about, "")], False
    svm_inputs = gpu_solver.load_features(arguments.features, arguments.rows, device)
    for name, value, bound in chain(checks(recipe, device), gpu_solver.checks(*svm_inputs, device)):
        failed |= not value <= bound
        rows.append((name, f"{value:.2e}", f"at most {bound:g}"))
        print(*rows[-1], sep=": ")
    for name, value, unit in chain(times(recipe, device), gpu_solver.times(*svm_inputs, device)):
        rows.append((name, f"{value:.2f}", unit))
        print(*rows[-1], sep=": ")
    with open(arguments.out, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("name", "value", "unit or bound"), *rows])
    sys.exit(failed)


if __name__ == "__main__":
    main()

"""How fast is training compared with the usual loop, and how close to the machine's matrix peak?

    python benchmarks/speed/train.py [--images IMAGE_SET] [--steps 3] [--rounds 3] [--device cpu] [--out FILE.csv]

Both train the imagenet32 networks at full width, batch size 128, one G and one D update per step, in turn, several
rounds. The usual loop is as tutorials write it: eager, float32, NCHW, a DataLoader that transforms image by image. The
share of the peak counts the FLOPs of every convolution and matrix product and divides by the fastest of several large
matrix products in the same arithmetic, measured in the same run. Prints and writes for each loop: images/s (real
images through D), ratio, GFLOP/s, share of the peaks; and the profile of ours.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from evalkit.gan.checkpoint import new_state
from evalkit.gan.minibatches import DISCRIMINATOR, GENERATOR, Minibatches
from evalkit.gan.networks import build_networks
from evalkit.gan.recipes import RECIPES
from evalkit.gan.steps import discriminator_step, generator_step
from evalkit.images import load_images
from evalkit.images.imageset import ImageSet
from evalkit.runtime import arithmetic, describe_device, resolve_device

RECIPE = RECIPES["imagenet32"]
COLUMNS = ("what", "value", "least", "most", "unit", "device", "torch")


def noise_images(count=4096):
    """Noise: training time does not depend on the content of the images."""
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return ImageSet("noise", images, np.zeros(count, np.int64), ["noise"], {"train": (0, count)}, {"files": {}})


class Images(Dataset):
    """As in tutorials: one image at a time, to a tensor, normalized."""

    def __init__(self, images):
        self.images = images
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(np.asarray(self.images[index])), 0


class Usual:
    """The tutorial's loop: D on real, D on fake (detached), then G through D, whose gradients are discarded."""

    name = "usual loop (eager, float32, NCHW, DataLoader)"

    def __init__(self, images, device):
        self.device = device
        self.generator, self.discriminator = (network.to(device) for network in build_networks(RECIPE, seed=0))
        self.loss = nn.BCEWithLogitsLoss()
        adam = {"lr": RECIPE.lr, "betas": (RECIPE.beta1, RECIPE.beta2)}
        self.d_optimizer = torch.optim.Adam(self.discriminator.parameters(), **adam)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), **adam)
        loader = DataLoader(Images(images.images), RECIPE.batch_size, shuffle=True, num_workers=2, drop_last=True)
        self.batches = self._forever(loader)

    def _forever(self, loader):
        while True:
            yield from loader

    def step(self):
        real = next(self.batches)[0].to(self.device)
        ones, zeros = torch.ones(len(real), device=self.device), torch.zeros(len(real), device=self.device)
        self.discriminator.zero_grad()
        self.loss(self.discriminator(real), ones).backward()
        fake = self.generator(torch.rand(len(real), RECIPE.z_dim, device=self.device) * 2 - 1)
        self.loss(self.discriminator(fake.detach()), zeros).backward()
        self.d_optimizer.step()
        self.generator.zero_grad()
        loss = self.loss(self.discriminator(fake), ones)
        loss.backward()
        self.g_optimizer.step()
        return loss.item()


class Ours:
    """evalkit's step in the given precision."""

    def __init__(self, images, device, precision):
        self.name = f"evalkit, {precision}"
        self.device, self.precision, self.t = device, precision, 0
        self.state = new_state(RECIPE, seed=0, device=device)
        self.minibatches = Minibatches(images, RECIPE, seed=0, device=device)

    def step(self):
        g, d, batch = self.state.generator, self.state.discriminator, self.minibatches
        with arithmetic(self.precision, self.device):
            generator_step(g, d, self.state.g_optimizer, batch.z(self.t, GENERATOR))
            real, z = batch.real(self.t + 1), batch.z(self.t + 1, DISCRIMINATOR)
            discriminator_step(g, d, self.state.d_optimizer, real, z)
        self.t += 2


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(action, device):
    wait(device)
    started = time.perf_counter()
    action()
    wait(device)
    return time.perf_counter() - started


def matrix_peak(dtype, device):
    """GFLOP/s of the fastest of some large matrix products."""
    best = 0.0
    for m, k, n in ((4096, 4096, 4096), (8192, 2304, 512), (2048, 2304, 2048)):
        a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
        a @ b
        best = max(best, *(2e-9 * m * k * n / seconds_of(lambda a=a, b=b: a @ b, device) for _ in range(5)))
    return best


def flops(loop):
    """FLOPs of one step's convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        loop.step()
    return counter.get_total_flops()


def rows_of(loops, rounds, steps, device):
    """(what, values, unit) of every loop, taken in turn."""
    for loop in loops:
        loop.step()
    times = {loop.name: [] for loop in loops}
    peaks = {torch.float32: [], torch.bfloat16: []}
    for _ in range(rounds):
        for dtype, rates in peaks.items():
            rates.append(matrix_peak(dtype, device))
        for loop in loops:
            taken = seconds_of(lambda loop=loop: [loop.step() for _ in range(steps)], device)
            times[loop.name].append(taken / steps)
    for dtype, rates in peaks.items():
        yield f"matrix peak, {str(dtype).removeprefix('torch.')}", rates, "GFLOP/s"
    usual = times[loops[0].name]
    for loop in loops:
        taken, work = times[loop.name], flops(loop) / 1e9
        yield f"{loop.name}: a G and a D update", taken, "s"
        yield f"{loop.name}: real images", [RECIPE.batch_size / t for t in taken], "images/s"
        yield f"{loop.name}: work", [work], "GFLOP per step"
        yield f"{loop.name}: rate", [work / t for t in taken], "GFLOP/s"
        for dtype, rates in peaks.items():
            share = [100 * work / t / max(rates) for t in taken]
            yield f"{loop.name}: share of the {str(dtype).removeprefix('torch.')} peak", share, "%"
        yield f"{loop.name}: times as fast as the usual loop", [u / t for u, t in zip(usual, taken, strict=True)], "x"


def profiled(loop):
    """(what, seconds, unit) of the operations that take most of a step."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled_step:
        loop.step()
    table = sorted(profiled_step.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in table)
    for row in table[:8]:
        yield f"profile of {loop.name}: {row.key}", [100 * row.self_cpu_time_total / total], "% of a step"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="an image set of 32x32 images [default: noise]")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("train-speed.csv"))
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    images = load_images(arguments.images) if arguments.images else noise_images()
    loops = [Usual(images, device), *(Ours(images, device, precision) for precision in ("float32", "bfloat16"))]
    about = (describe_device(device), torch.__version__)
    results = [*rows_of(loops, arguments.rounds, arguments.steps, device)]
    results += [] if device.type == "cuda" else [*profiled(loops[-1])]
    with open(arguments.out, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for what, values, unit in results:
            cells = [f"{v:.4g}" for v in (statistics.median(values), min(values), max(values))]
            writer.writerow([what, *cells, unit, *about])
            print(f"{what}: {cells[0]} {unit} ({cells[1]} to {cells[2]}, n = {len(values)})")


if __name__ == "__main__":
    main()

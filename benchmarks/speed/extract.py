"""How fast is `extract` compared with the usual loop and the machine's matrix peak, and how much memory does it take?

    python benchmarks/speed/extract.py [--images 8192] [--usual 2048] [--rounds 3] [--device cpu] [--out FILE.csv]

Both compute the 28,672 features of the imagenet32 discriminator (random weights, running statistics), in turn, for
several rounds. The usual loop is as tutorials write it: a DataLoader that transforms one image at a time, eager
float32, NCHW, forward hooks, max-pooling, .cpu().numpy() and np.concatenate at the end, in memory. Ours is the whole
`extract` call: checking the encoder, folding, computing, writing to disk, fsync, hashes, manifest. FLOPs are those of
the convolutions; the peak is the fastest of several bf16 matrix products in the same run. Peak memory is measured in a
separate process.
"""

import argparse
import csv
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from evalkit.encoders.dcgan import discriminator_encoder
from evalkit.features.extract import extract
from evalkit.gan.networks import build_networks
from evalkit.gan.recipes import RECIPES
from evalkit.images import ImageSet
from evalkit.runtime import describe_device, resolve_device, resolve_precision

RECIPE = RECIPES["imagenet32"]
COLUMNS = ("what", "value", "least", "most", "unit", "images", "device", "torch")


def noise_images(count):
    """Noise: the time does not depend on the images' content."""
    images = np.random.default_rng(0).integers(0, 256, (count, RECIPE.size, RECIPE.size, 3), dtype=np.uint8)
    return ImageSet.from_arrays(images, name="noise")


class Images(Dataset):
    """As tutorials write it: one image at a time, converted to a tensor and normalised."""

    def __init__(self, images):
        self.images = images
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), 0


def usual(images, device, folder):
    """Features (N, 28672) float32 in memory."""
    network = build_networks(RECIPE, seed=0)[1].eval().to(device)
    outputs, rows = [], []
    for block in network.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        for batch, _ in DataLoader(Images(images.images), batch_size=256, num_workers=2):
            outputs.clear()
            network(batch.to(device))
            pooled = [F.adaptive_max_pool2d(output, 4).flatten(1) for output in outputs]
            rows.append(torch.cat(pooled, dim=1).cpu().numpy())
    return np.concatenate(rows)


def ours(images, device, folder):
    """Features (N, 28672) float16 on disk."""
    encoder = discriminator_encoder("random", build_networks(RECIPE, seed=0)[1], sha256="")
    extract(images, encoder, out=folder / "features", batch_norm="running", device=str(device))


def peak(device, precision):
    """FLOP/s of the fastest of several large matrix products."""
    best = 0.0
    for side in (1024, 2048, 4096):
        a, b = (torch.randn(side, side, device=device).to(getattr(torch, precision)) for _ in range(2))
        for _ in range(3):
            best = max(best, 2 * side**3 / timed(lambda a=a, b=b: a @ b, device))
    return best


def timed(call, device):
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def run(method, count, device):
    """Seconds of one run of a method on synthetic images; what it writes is deleted afterwards."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        images = noise_images(count)
        return timed(lambda: method(images, device, Path(folder)), device)


def flops_per_image():
    network = build_networks(RECIPE, seed=0)[1].eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.layer_outputs(torch.zeros(1, RECIPE.channels, RECIPE.size, RECIPE.size))
    return counter.get_total_flops()


def peak_memory(which, count, device):
    """Peak resident memory of a process that imports, makes the images and runs one of the two methods, in MiB."""
    command = [sys.executable, __file__, "--memory-of", which, "--images", str(count), "--device", str(device)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(asked, device):
    """Rows of the table without the last three columns."""
    methods = {"usual loop": (usual, asked.usual), "evalkit": (ours, asked.images)}
    precision, flops = resolve_precision("auto", device), flops_per_image()
    seconds, peaks = {name: [] for name in methods}, []
    for method, _ in methods.values():
        run(method, 256, device)  # warm-up
    for _ in range(asked.rounds):
        for name, (method, count) in methods.items():
            seconds[name].append(run(method, count, device) / count)
            peaks.append(peak(device, precision))
    for name, (_, count) in methods.items():
        rates = [1 / each for each in seconds[name]]
        yield name, statistics.median(rates), min(rates), max(rates), "images/s", count
    ratios = [a / b for a, b in zip(seconds["usual loop"], seconds["evalkit"], strict=True)]
    yield "evalkit / usual loop", statistics.median(ratios), min(ratios), max(ratios), "ratio", asked.images
    yield "FLOPs per image", flops / 1e6, flops / 1e6, flops / 1e6, "MFLOP", 1
    yield f"matrix peak, {precision}", max(peaks) / 1e9, min(peaks) / 1e9, max(peaks) / 1e9, "GFLOP/s", 0
    shares = [100 * flops / each / max(peaks) for each in seconds["evalkit"]]
    yield "evalkit, share of the peak", statistics.median(shares), min(shares), max(shares), "%", asked.images
    for name, which, count in (("usual loop", "usual", asked.usual), ("evalkit", "ours", asked.images)):
        for images in (256, count):
            memory = peak_memory(which, images, device)
            yield f"{name}, peak memory", memory, memory, memory, "MiB", images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--usual", type=int, default=2048, help="images for the usual loop, which is slower")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", choices=["usual", "ours"], help="run this method once and print its peak memory")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/extract-speed.csv"))
    asked = parser.parse_args()
    device = resolve_device(asked.device)
    if asked.memory_of:
        run({"usual": usual, "ours": ours}[asked.memory_of], asked.images, device)
        # not getrusage: its maximum counts the parent's memory from before the exec
        print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**10)
        return
    about, rows = [describe_device(device), torch.__version__], []
    for row in measure(asked, device):
        print("{}: {:.4g} ({:.4g} to {:.4g}) {}, {} images".format(*row), flush=True)
        rows.append([row[0], *(f"{value:.4g}" for value in row[1:4]), *row[4:], *about])
    with open(asked.out, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()

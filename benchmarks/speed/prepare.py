"""Speed of prepare beside torchvision's ImageFolder + Resize + CenterCrop, in one run, and its difference from exact.

    python benchmarks/speed/prepare.py FOLDER [--repeats 5] [--copies 40] [--out benchmarks/results/prepare-speed.csv]

FOLDER holds full-size JPEG images. "one core" counts the processor seconds of one process, so that other programs on
the machine hardly disturb it; "all cores" counts the seconds to the finished files, with the start of the workers.
The floor is the cost of entropy decoding alone: the smallest scaled decode (1/8) of the fastest library installed.
The order of the methods changes from repeat to repeat.
"""

import argparse
import csv
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from evalkit import prepare
from evalkit.images.decode import decode_and_resize
from evalkit.images.options import ResizeOptions
from evalkit.images.workers import num_cores
from evalkit.version import versions

COLUMNS = ["measured", "method", "workers", "value", "unit", "low", "high", "n", "ratio_to_torchvision", "images"]
IMAGENET = 1_281_167
SIZE = 32
EXACT, SCALED = ResizeOptions(size=SIZE), ResizeOptions(size=SIZE, decode="scaled")
TRANSFORM = transforms.Compose([transforms.Resize(SIZE), transforms.CenterCrop(SIZE), np.asarray])


def floor_pillow(path: Path) -> None:
    image = Image.open(io.BytesIO(path.read_bytes()), formats=("JPEG",))
    image.draft(None, (1, 1))
    image.load()


def floor_simplejpeg(path: Path) -> None:
    import simplejpeg

    simplejpeg.decode_jpeg(path.read_bytes(), min_height=1, min_width=1, min_factor=8)


def one_core(folder: Path) -> dict[str, Callable[[], object]]:
    """Each method over all images, from the file to a uint8 array."""
    dataset = ImageFolder(str(folder.parent), TRANSFORM)
    paths = sorted(path for path in folder.iterdir())
    methods: dict[str, Callable[[], object]] = {
        "torchvision": lambda: [dataset[k] for k in range(len(dataset))],
        "evalkit exact": lambda: [decode_and_resize(path.read_bytes(), EXACT) for path in paths],
        "evalkit scaled": lambda: [decode_and_resize(path.read_bytes(), SCALED) for path in paths],
        "floor, Pillow 1/8": lambda: [floor_pillow(path) for path in paths],
    }
    try:
        floor_simplejpeg(paths[0])
        methods["floor, simplejpeg 1/8"] = lambda: [floor_simplejpeg(path) for path in paths]
    except ImportError:
        pass
    return methods


def all_cores(folder: Path, copies: int, scratch: Path) -> dict[str, tuple[int, Callable[[], object]]]:
    """Whole jobs over the images `copies` times: (workers, job)."""
    dataset = ImageFolder(str(folder.parent), TRANSFORM)
    dataset.samples = dataset.samples * copies
    listing = folder.parent / "list.txt"
    listing.write_text("".join(f"{path}\n" for path in sorted(folder.iterdir())) * copies)

    def by_torchvision(workers: int) -> None:
        loader = torch.utils.data.DataLoader(dataset, 100, num_workers=workers, collate_fn=lambda rows: rows)
        np.save(scratch / "torchvision.npy", np.stack([row[0] for rows in loader for row in rows]))

    def by_evalkit(workers: int, decode: str) -> None:
        prepare(listing, home=scratch / f"{time.monotonic_ns()}", size=SIZE, decode=decode, workers=workers)

    jobs: dict[str, tuple[int, Callable[[], object]]] = {}
    for workers in sorted({1, num_cores()}):
        jobs[f"torchvision {workers}"] = workers, lambda w=workers: by_torchvision(w)
        jobs[f"evalkit exact {workers}"] = workers, lambda w=workers: by_evalkit(w, "exact")
        jobs[f"evalkit scaled {workers}"] = workers, lambda w=workers: by_evalkit(w, "scaled")
    return jobs


def rates(methods: dict[str, Callable[[], object]], images: int, repeats: int, clock: Callable[[], float]) -> dict:
    """Images per second of each method, `repeats` times, after one round to warm up."""
    measured: dict[str, list[float]] = {name: [] for name in methods}
    names = list(methods)
    for repeat in range(repeats + 1):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            start = clock()
            methods[name]()
            if repeat:
                measured[name].append(images / (clock() - start))
    return measured


def rate_rows(measured: str, rates: dict, workers: dict[str, int], images: int) -> list[list[object]]:
    rows = []
    for name, values in rates.items():
        base = rates[f"torchvision {workers[name]}" if measured == "all cores" else "torchvision"]
        ratio = statistics.median(value / other for value, other in zip(values, base, strict=True))
        value, low, high = statistics.median(values), min(values), max(values)
        row = [measured, name.rstrip("0123456789 ") if measured == "all cores" else name, workers[name]]
        rows.append(
            [*row, f"{value:.1f}", "images/s", f"{low:.1f}", f"{high:.1f}", len(values), f"{ratio:.3f}", images]
        )
    return rows


def difference_rows(folder: Path) -> list[list[object]]:
    """Mean absolute difference of scaled from exact decoding by size; low and high are over images."""
    rows = []
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    for size in (28, 32, 64):
        scaled, exact = ResizeOptions(size=size, decode="scaled"), ResizeOptions(size=size)
        pairs = [
            (decode_and_resize(c, scaled).images[0].astype(int), decode_and_resize(c, exact).images[0])
            for c in contents
        ]
        each = [float(np.abs(a - b).mean()) for a, b in pairs]
        value = f"{statistics.mean(each):.3f}"
        about = ["difference", f"scaled from exact at {size}x{size}", "", value, "of 255, mean"]
        rows.append([*about, f"{min(each):.3f}", f"{max(each):.3f}", len(each), "", len(each)])
    return rows


def predicted_rows(rate: float) -> list[list[object]]:
    """Minutes of ImageNet-1k from the rate of one core, if the cores are free, scale linearly and the disk keeps up."""
    rows = []
    for count in (2, 16, 64):
        about = ["predicted", "evalkit scaled, 1,281,167 images", count]
        rows.append([*about, f"{IMAGENET / (rate * count) / 60:.1f}", "minutes", "", "", "", "", IMAGENET])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--copies", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/prepare-speed.csv"))
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "in", "all")  # ImageFolder needs a class folder
        folder.parent.mkdir()
        folder.symlink_to(options.folder.resolve())
        images = len(list(folder.iterdir()))
        single = rates(one_core(folder), images, options.repeats, time.process_time)
        jobs = all_cores(folder, options.copies, Path(scratch))
        whole = rates({k: v[1] for k, v in jobs.items()}, images * options.copies, options.repeats, time.perf_counter)
        rows = rate_rows("one core", single, dict.fromkeys(single, 1), images)
        rows += rate_rows("all cores", whole, {k: v[0] for k, v in jobs.items()}, images * options.copies)
        rows += difference_rows(folder)
        rows += predicted_rows(statistics.median(single["evalkit scaled"]))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "w", newline="") as file:
        mean = sum(path.stat().st_size for path in options.folder.iterdir()) / images
        file.write(
            f"# python benchmarks/speed/prepare.py FOLDER --repeats {options.repeats} --copies {options.copies}\n"
        )
        file.write(f"# {images} full-size ImageNet images, {mean:,.0f} bytes in the mean; low and high over n\n")
        known = ", ".join(f"{name} {version}" for name, version in versions().items())
        load = ", ".join(f"{value:.1f}" for value in (before, os.getloadavg()[0]))
        file.write(f"# load average before and after: {load} (other programs ran if it is above the cores' number)\n")
        file.write(f"# {num_cores()} cores, {platform.machine()}, {_processor()}; {known}\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    print(options.out.read_text())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()

"""Seconds of every `evalkit latent` command at its defaults on a full-width 64x64 network, start of Python included.

    python benchmarks/speed/latent.py IMAGES HOME [--only walk,filters] [--out benchmarks/results/latent-speed.csv]

IMAGES is an image set of 64x64 images (a path). The network is `lsun64` with its initial weights: time does not
depend on their values. It is put into the workspace HOME, where the results of the commands go as well. Rows of --only
replace those in the file.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from evalkit.artifacts import new_manifest, write_artifact
from evalkit.gan.checkpoint import RUN_KIND, new_state, save_checkpoint
from evalkit.gan.recipes import RECIPES
from evalkit.images import load_images
from evalkit.latent.experiment import enlarge
from evalkit.runtime import describe_device
from evalkit.version import versions

COLUMNS = ["command", "seconds", "threads", "load_before", "hardware", "torch"]
COMMANDS = {
    "sample": [],
    "walk": ["--loop"],
    "arithmetic": ["--plus", "1,2,3", "--minus", "4,5,6", "--plus", "7,8,9"],
    "turn": ["--start", "0-3", "--end", "4-7"],
    "invert": ["IMAGE"],
    "nearest": [],
    "filters": [],
    "forget": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("--only", default=",".join(COMMANDS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/latent-speed.csv"))
    arguments = parser.parse_args()
    image = prepare_home(arguments.images, arguments.home)
    rows = {}
    if arguments.out.exists():
        with open(arguments.out, newline="") as file:
            rows = {row["command"]: row for row in csv.DictReader(file)}
    for name in arguments.only.split(","):
        options = [str(image) if option == "IMAGE" else option for option in COMMANDS[name]]
        rows[name] = measured(name, options, arguments.home)
        with open(arguments.out, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[name] for name in COMMANDS if name in rows)


def prepare_home(images: Path, home: Path) -> Path:
    """A run without updates on `images`, a link to them, and one of their images as a file."""
    real_images = load_images(images)
    run, link = home / "runs/lsun64", home / "images" / real_images.name
    if not run.exists():
        with write_artifact(run, settings={}, made_from={}) as artifact:
            artifact.finish(new_manifest(RUN_KIND, settings={}, made_from={}))
        state = new_state(RECIPES["lsun64"], seed=0, device=torch.device("cpu"))
        save_checkpoint(run, state, made_from={"images_sha256": real_images.sha256})
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(images.resolve())
    enlarge(real_images.images[0]).save(home / "image.png")
    return home / "image.png"


def measured(name: str, options: list[str], home: Path) -> dict[str, str]:
    load = f"{os.getloadavg()[0]:.1f}"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "evalkit", "--home", home, "latent", name, *options], check=True)
    seconds = f"{time.perf_counter() - start:.1f}"
    where = describe_device(torch.device("cpu"))
    row = {"command": name, "seconds": seconds, "threads": str(torch.get_num_threads()), "load_before": load}
    return row | {"hardware": where, "torch": versions()["torch"]}


if __name__ == "__main__":
    main()

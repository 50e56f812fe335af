"""How many photographs have no face, one face and several faces, by the least score of a face.

    python benchmarks/faces.py SOURCE [--size 64] [--out benchmarks/results/faces-counts.csv] [--sheet FILE.png]

SOURCE is anything prepare reads; the committed results are of 300 LFW photographs (250x250, one person each, sometimes
others in the background). --sheet writes an image of the first hundred crops at the default score.
"""

import argparse
import csv
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from evalkit import prepare
from evalkit.images.imageset import ImageSetInfo
from evalkit.images.options import FaceOptions
from evalkit.version import versions

COLUMNS = ["score", "default", "photographs", "none", "one", "several", "faces"]
SCORES = (0.0, 3.0, 5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/faces-counts.csv"))
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    rows = []
    for score in SCORES:
        images = prepare(options.source, size=options.size, crop="faces", face_score=score)
        info = ImageSetInfo.from_manifest(images.manifest)
        default = "yes" if score == FaceOptions.score else ""
        by_number = [info.faces.get(name, 0) for name in ("none", "one", "several")]
        rows.append([score, default, info.counts["read"], *by_number, info.counts["written"]])
        if default and options.sheet:
            crops = np.asarray(images.images[:100])
            lines = [np.concatenate(list(crops[first : first + 10]), axis=1) for first in range(0, 100, 10)]
            Image.fromarray(np.concatenate(lines)).save(options.sheet)
    with open(options.out, "w", newline="") as file:
        packages = versions() | {"opencv-python-headless": version("opencv-python-headless")}
        file.write(f"# python benchmarks/faces.py SOURCE --size {options.size}; least side {FaceOptions.smallest}\n")
        file.write("# " + ", ".join(f"{name} {number}" for name, number in packages.items()) + "\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    print(options.out.read_text())


if __name__ == "__main__":
    main()

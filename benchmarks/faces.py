"""How many photographs give no face, one and several, by the score that is asked for.

    python benchmarks/faces.py SOURCE [--size 64] [--out benchmarks/results/faces-counts.csv] [--sheet FILE.png]

SOURCE is anything prepare reads; the committed figures are of 300 LFW photographs (250x250, one person each, sometimes
others behind). --sheet writes the first hundred crops of the default score, to look at.
"""

import argparse
import csv
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from evalkit.images import Faces, prepare
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
    with tempfile.TemporaryDirectory() as scratch:
        for score in SCORES:
            faces = Faces(score=score)
            images = prepare(options.source, Path(scratch, str(score)), size=options.size, faces=faces)
            found, counts = images.manifest["faces"], images.manifest["counts"]
            default = "yes" if score == Faces.score else ""
            by_number = [found.get(name, 0) for name in ("none", "one", "several")]
            rows.append([score, default, counts["read"], *by_number, counts["written"]])
            if default and options.sheet:
                crops = np.asarray(images.images[:100])
                lines = [np.concatenate(list(crops[first : first + 10]), axis=1) for first in range(0, 100, 10)]
                Image.fromarray(np.concatenate(lines)).save(options.sheet)
    with open(options.out, "w", newline="") as file:
        known = versions() | {"opencv-python-headless": version("opencv-python-headless")}
        file.write(f"# python benchmarks/faces.py SOURCE --size {options.size}; smallest {Faces.smallest} pixels\n")
        file.write("# " + ", ".join(f"{name} {number}" for name, number in known.items()) + "\n")
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    print(options.out.read_text())


if __name__ == "__main__":
    main()

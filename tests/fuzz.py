"""Damaged and hostile files through the readers: one line for each that is refused, nothing written elsewhere.

`python tests/fuzz.py --cases 20000` runs all kinds of input in turn; `make fuzz` does. A file `fuzz_*.py` beside this
one adds kinds with `register`. The suite runs a few cases of each.
"""

import argparse
import importlib
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError

LONGEST = 20  # seconds per case
LARGEST = 3 << 20  # KiB of memory


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        make: writes a valid input into an empty folder; returns the files that are mutated.
        read: reads the input in that folder, and writes what it makes into the folder `out` beside it, if anywhere.
        half: whether what an error left in `out` reads as whole.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path, Path], object]
    half: Callable[[Path], bool] = lambda out: False


KINDS: dict[str, Kind] = {}


def register(name: str, kind: Kind) -> None:
    """Adds a kind of input."""
    KINDS[name] = kind


def load_kinds() -> None:
    """Imports the files that register kinds."""
    for path in sorted(Path(__file__).parent.glob("fuzz_*.py")):
        importlib.import_module(path.stem)


def mutate(content: bytes, draw: random.Random) -> bytes:
    """The bytes with one to three changes: flipped, cut off, removed, inserted, repeated, or larger numbers."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        place = draw.choice((draw.randrange(len(data) + 1), draw.randrange(min(len(data), 400) + 1)))
        length = draw.choice((1, 2, 4, 8, 64))
        change = draw.randrange(7)
        if change == 0 and place < len(data):
            data[place] ^= 1 << draw.randrange(8)
        elif change == 1:
            del data[place:]
        elif change == 2:
            del data[place : place + length]
        elif change == 3:
            data[place:place] = draw.randbytes(length)
        elif change == 4:
            data[place : place + length] = draw.choice((b"\xff", b"\x00", b"9", b"[")) * length
        elif change == 5:
            data[place:place] = data[place : place + 64 * length]
        else:
            data[place:place] = draw.choice(WORDS)
    return bytes(data)


WORDS = (b"../../../x", b"-1", b"9" * 400, b"[" * 3000, b'{"a":' * 200, b"NaN", b"\xef\xbb\xbf", b"null", b"\r\n", b"O")


def run_case(name: str, seed: int, folder: Path) -> str:
    """Mutates one file of an input and reads it: accepted, refused, or what went wrong."""
    kind, draw = KINDS[name], random.Random(f"{name} {seed}")
    work, out = folder / "input", folder / "out"
    for each in (work, out):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir()
    path = draw.choice(kind.make(work))
    path.write_bytes(mutate(path.read_bytes(), draw))
    before, start = listed(folder, out), time.monotonic()
    signal.alarm(LONGEST)
    try:
        kind.read(work, out)
        verdict = "accepted"
    except EvalkitError as error:
        text = str(error)
        verdict = "refused" if text.isprintable() and len(text) < 1500 else f"not one line: {text[:300]!r}"
    except Exception:
        verdict = "traceback: " + traceback.format_exc().strip()[-1500:]
    finally:
        signal.alarm(0)
    if listed(folder, out) != before:
        verdict = f"wrote outside: {set(listed(folder, out)) ^ set(before)}"
    if verdict == "refused" and kind.half(out):
        verdict = "half an artifact that reads as whole"
    if time.monotonic() - start > LONGEST:
        verdict = "took longer than 20 s"
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > LARGEST:
        verdict = "more than 3 GB of memory"
    return verdict


def listed(folder: Path, out: Path) -> list[tuple[str, bytes]]:
    """The files of a folder with their contents, but for those in `out`."""
    return [(str(p), p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file() and out not in p.parents]


def run(cases: int, seed: int = 0) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Verdicts counted by kind, and a line for each case that went wrong."""
    counts: Counter[tuple[str, str]] = Counter()
    failures = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(cases):
            name = list(KINDS)[number % len(KINDS)]
            verdict = run_case(name, seed + number, Path(folder))
            counts[name, verdict if verdict in ("accepted", "refused") else "WRONG"] += 1
            if verdict not in ("accepted", "refused"):
                failures.append(f"{name}, seed {seed + number}: {verdict}")
    return counts, failures


def _too_long(*_: object) -> None:
    raise TimeoutError(f"longer than {LONGEST} s")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.modules["fuzz"] = sys.modules["__main__"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", help="only kinds whose name begins so")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    load_kinds()
    for other in [name for name in KINDS if not name.startswith(options.kind or "")]:
        del KINDS[other]
    counted, wrong = run(options.cases, options.seed)
    for (kind_name, result), count in sorted(counted.items()):
        print(f"{kind_name:<28} {result:<9} {count:>7,}")
    print(*wrong[:50], sep="\n\n")
    print(f"{options.cases:,} cases, {len(wrong)} wrong")
    sys.exit(bool(wrong))

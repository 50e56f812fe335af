"""How many files of evalkit a reader opens on the way from a command to the line that does its work.

    python benchmarks/files_to_open.py

Counted are the distinct evalkit files on the Python call stack at that line:

    accuracy    `evalkit svm`, where a mean over right and wrong predictions is taken
    step        `evalkit train-gan`, where the optimizer steps
    row         `evalkit prepare FOLDER`, where rows are written to images.npy
    decode      the same in the worker process, where an image file is resized
    image       both: an image file to its row of images.npy
    features    `evalkit extract --encoder torchvision:resnet18`, where a convolution runs

Where the line is reached in several ways, the longest counts. In brackets, as an upper bound: all files of which a
function ran before the line was first reached, be it to check an option or to read a manifest.

The script counts the evalkit that Python imports, so another commit is counted with PYTHONPATH set to its checkout.
Lines are recognised by what they call outside evalkit; nothing here depends on names inside it.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any

Target = Callable[[FrameType, str, Any], bool]
_WORKER = "FILES_TO_OPEN_WORKER"  # environment variable: where workers write the stacks they saw


def mean_of_booleans(frame: FrameType, event: str, called: Any) -> bool:
    """`(predictions == labels).mean(...)`"""
    values = getattr(called, "__self__", None)
    return event == "c_call" and called.__name__ == "mean" and str(getattr(values, "dtype", "")) == "bool"


def optimizer_step(frame: FrameType, event: str, called: Any) -> bool:
    """`optimizer.step()`"""
    return event == "call" and is_function(frame, "torch/optim/adam.py", "step")


def row_written(frame: FrameType, event: str, called: Any) -> bool:
    """`file.write(rows)` of images.npy, not of its header, which numpy writes"""
    if event != "c_call" or called.__name__ != "write" or not in_evalkit(frame):
        return False
    name = getattr(called.__self__, "name", "")
    if isinstance(name, int):  # opened by its descriptor, which Linux can name
        name = os.readlink(f"/proc/self/fd/{name}")
    return str(name).endswith("images.npy")


def image_resized(frame: FrameType, event: str, called: Any) -> bool:
    """`image.resize(...)`"""
    return event == "call" and is_function(frame, "PIL/Image.py", "resize")


def convolution(frame: FrameType, event: str, called: Any) -> bool:
    """`module(images)`, as torchvision wrote it or as torch.fx has rewritten it"""
    if event == "call":
        return is_function(frame, "torchvision/models/resnet.py", "_forward_impl")
    return event == "c_call" and called.__name__ == "conv2d"


def is_function(frame: FrameType, file: str, name: str) -> bool:
    """Whether a frame runs the function of a library's file."""
    return frame.f_code.co_name == name and frame.f_code.co_filename.endswith(file)


def in_evalkit(frame: FrameType) -> bool:
    """Whether a frame runs code of evalkit."""
    import evalkit

    return Path(frame.f_code.co_filename).is_relative_to(Path(evalkit.__file__).parent)


def files_on_stack(frame: FrameType | None) -> list[str]:
    """The distinct files of evalkit on the stack, the command's first."""
    import evalkit

    root, files = Path(evalkit.__file__).parent, []
    while frame is not None:
        if in_evalkit(frame):
            files.append(str(Path(frame.f_code.co_filename).relative_to(root)))
        frame = frame.f_back
    return list(dict.fromkeys(reversed(files)))


@dataclass
class Way:
    """What was seen on the way to a target."""

    longest: list[str] = field(default_factory=list)  # files on the stack
    ran: set[str] = field(default_factory=set)  # files with a function that ran before the target was first reached


def watch(target: Target, found: Callable[[Way], None] = lambda way: None) -> Way:
    """From here on follows what this thread runs; `found` is called whenever it reaches the target."""
    import evalkit

    way, root = Way(), str(Path(evalkit.__file__).parent) + os.sep

    def profile(frame: FrameType, event: str, called: Any) -> None:
        code = frame.f_code
        if not way.longest and code.co_filename.startswith(root) and code.co_name != "<module>":
            way.ran.add(code.co_filename.removeprefix(root))
        if target(frame, event, called):
            sys.setprofile(None)
            way.longest = max(way.longest, files_on_stack(frame), key=len)
            found(way)
            sys.setprofile(profile)

    sys.setprofile(profile)
    return way


def watch_worker() -> None:
    """Watches this process for `decode` until it ends: what the workers of prepare do as they start."""

    def found(way: Way) -> None:
        Path(os.environ[_WORKER]).write_text(json.dumps([way.longest, sorted(way.ran)]))

    watch(image_resized, found)


def command(home: Path, *words: object) -> None:
    """Runs an evalkit command in this process."""
    from evalkit.cli import main

    main(["--home", str(home), *map(str, words)], standalone_mode=False)


def way_to(target: Target, home: Path, *words: object) -> Way:
    """Runs an evalkit command and returns what was seen on the way to the target."""
    way = watch(target)
    command(home, *words)
    sys.setprofile(None)
    return way


def write_images(folder: Path) -> None:
    """Eight PNGs in one folder per class."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for number in range(2):
                image = random.integers(0, 256, (300, 300, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{number}.png")


def random_weights() -> None:
    """torchvision's networks with random weights, so that nothing is downloaded."""
    from torchvision.models import WeightsEnum, resnet18

    WeightsEnum.get_state_dict = lambda *_, **__: resnet18().state_dict()  # type: ignore[method-assign]


def count(folder: Path) -> dict[str, Way]:
    """The ways to the lines of the table above."""
    log, home = folder / "worker.json", folder / "home"
    startup = f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n"
    (folder / "sitecustomize.py").write_text(startup + "import files_to_open; files_to_open.watch_worker()\n")
    places = [str(folder), os.environ.get("PYTHONPATH", "")]
    os.environ |= {_WORKER: str(log), "PYTHONPATH": os.pathsep.join(filter(None, places))}
    write_images(folder / "images")
    random_weights()
    prepare = ("prepare", folder / "images", "--name", "few", "--size", 224, "--workers", 2)
    found = {"row": way_to(row_written, home, *prepare)}
    longest, ran = json.loads(log.read_text())
    found["decode"] = Way(longest, set(ran))
    extract = ("extract", "--dataset", "few", "--encoder", "torchvision:resnet18", "--device", "cpu")
    found["features"] = way_to(convolution, home, *extract)
    command(home, "extract", "--dataset", "digits", "--encoder", "pixels", "--device", "cpu")
    found["accuracy"] = way_to(mean_of_booleans, home, "svm", "--device", "cpu")
    small = "base_channels=4" if "base_channels" in recipe_keys() else "width=4"
    train = ("train-gan", "--recipe", "digits", "--images", "digits", "--updates", 1, "--device", "cpu")
    found["step"] = way_to(optimizer_step, home, *train, "--set", small)
    return found


def recipe_keys() -> list[str]:
    """The values of a recipe, by their names at the commit that is counted."""
    from evalkit.gan.recipes import Recipe

    return [each.name for each in fields(Recipe)]


def main() -> None:
    """Prints the counts and the files."""
    with tempfile.TemporaryDirectory() as folder:
        found = count(Path(folder))
    row, decode = found["row"], found["decode"]
    found["image"] = Way([*dict.fromkeys(row.longest + decode.longest)], row.ran | decode.ran)
    for name in ("accuracy", "step", "row", "decode", "image", "features"):
        way = found[name]
        print(f"{name:<9} {len(way.longest):>2} ({len(way.ran)})  {' '.join(way.longest)}")


if __name__ == "__main__":
    main()

"""prepare: any source of images becomes an image set, resumably, with the same bytes for any number of workers.

Sources (sources/) come before; training and extraction read the ImageSet.

The image set that prepare is writing: rows and labels as they come, progress to resume from, counts at the end.

A pool of decoding processes whose answers come back in order, a bounded number of them ahead.

Processes of our own instead of multiprocessing's: no fork of a process that runs torch's threads, no re-import of the
user's main module, and no orphans when the command is killed (a worker ends with its standard input).
"""

import csv
import io
import os
import pickle
import queue
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evalkit.artifacts import ArtifactWriter, NpyWriter, already_built, new_manifest, write_artifact
from evalkit.errors import EvalkitError, ImageError
from evalkit.images.decode import ResizeOptions
from evalkit.images.faces import Faces, check_opencv
from evalkit.images.imageset import KIND, ImageSet, load_images
from evalkit.images.sources import plan_source
from evalkit.images.sources.base import Plan, printable, split_of
from evalkit.images.worker import Chunk, Task
from evalkit.workspace import Workspace

# Officially lossless: images in JPEG under such a name are another data set, with other figures.
_LOSSLESS = ("cifar10", "cifar100", "svhn", "mnist", "stl10")


def prepare(
    source: Path | str,
    target: Path | Workspace,
    *,
    name: str | None = None,
    size: int = ResizeOptions.size,
    filter: str = ResizeOptions.filter,
    decode: str | None = None,
    faces: Faces | None = None,
    workers: int | None = None,
    strict: bool = False,
    source_kind: str | None = None,
    replace: bool = False,
    progress: bool = False,
) -> ImageSet:
    """Makes an image set of the images in `source`, or returns the finished one if it is there already.

    Args:
        source: a folder, file or glob of any of the forms in `SOURCES` (see `evalkit.images.sources`).
        target: the image set's folder, or the workspace in which it gets the place of its name.
        name: the data set's name; the folder's or file's if not given.
        size: side of the square images in pixels.
        filter: how to shrink: "antialias" or "bilinear-noaa" (see Fit).
        decode: "scaled" decodes large JPEGs at a fraction of their size, "exact" never does (see Fit); if not given,
            scaled where the filter allows it.
        faces: crop each face that these settings find to an image of its own; photographs without one give none.
        workers: decoding processes; one a core if not given. The result does not depend on it.
        strict: stop at the first image that cannot be decoded instead of skipping it.
        source_kind: the source's form (see `source_names`); recognised if not given.
        replace: overwrite an image set made from something else or with other settings.
        progress: show a bar on standard error, if that is a terminal.

    Raises:
        EvalkitError: nothing to prepare, or the target is something else.
        ImageError: a bad image, in a strict run; or every image is bad.
    """
    fit = ResizeOptions(size=size, filter=filter, decode=decode or ("scaled" if filter == "antialias" else "exact"))
    plan = plan_source(source, source_kind)
    name, notes = _named(plan, name or plan.variant or default_name(source))
    place = target.path_of(KIND, name) if isinstance(target, Workspace) else Path(target)
    return write_set(
        plan,
        place,
        name=name,
        fit=fit,
        faces=faces,
        notes=(*plan.notes, *notes),
        workers=workers,
        strict=strict,
        replace=replace,
        progress=progress,
    )


def default_name(source: Path | str) -> str:
    """The data set's name that a path suggests: the folder's, or the file's unless that is only a split's."""
    path = Path(source).absolute()
    stem = path.name if path.is_dir() else path.name.split(".")[0]
    split_file = (
        (split_of([stem]) and stem.split("-")[0].isalpha()) or stem.startswith("0000-") or set(stem) & set("*?[")
    )
    return printable(path.parent.name if split_file and not path.is_dir() else stem) or "images"


def _named(plan: Plan, name: str) -> tuple[str, tuple[str, ...]]:
    plain = name.lower().replace("-", "").replace("_", "")
    if plain not in _LOSSLESS or not plan.shards:
        return name, ()
    first = next(plan.shards[0].read(), None)
    if first is None or not isinstance(first.content, bytes) or not first.content.startswith(b"\xff\xd8"):
        return name, ()
    lossy = f"{plain}-jpeg"
    return lossy, (f"the images are JPEG, {name} is officially lossless: called {lossy}, its figures are its own",)


def write_set(
    plan: Plan,
    target: Path,
    *,
    name: str,
    fit: ResizeOptions,
    faces: Faces | None = None,
    notes: Sequence[str] = (),
    workers: int | None = None,
    strict: bool = False,
    replace: bool = False,
    progress: bool = False,
) -> ImageSet:
    """Carries out a plan; what `prepare` and the named data sets share. Arguments as in `prepare`."""
    settings = {"name": name, **asdict(fit)}
    if faces:
        check_opencv()
        settings["faces"] = asdict(faces)
    made_from = {"source": plan.kind, **plan.identity}
    if not already_built(target, KIND, settings=settings, made_from=made_from, replace=replace):
        with write_artifact(target, settings=settings, made_from=made_from) as work:
            output = Output(work, fit.size)
            tasks = [Task(shard, fit, strict, faces) for shard in plan.shards[output.tally["shards"] :]]
            bar = tqdm(total=plan.count, initial=output.tally["read"], unit="image", disable=None if progress else True)
            with output, bar:
                for chunk in chunks(tasks, workers=workers or cores()):
                    output.add(chunk)
                    bar.update(chunk.read)
            output.finish(
                plan,
                new_manifest(KIND, settings=settings, made_from=made_from)
                | {"notes": list(notes), "variant": plan.variant},
            )
    found = load_images(target)
    if strict and found.manifest["counts"]["skipped"]:
        file, reason = found.manifest["first_skipped"][0]
        raise ImageError(f"{file}: {reason}; skipped when {target} was made, --strict stops at it")
    return found


SKIPPED = "skipped.csv"
SAVE_SECONDS = 2.0  # between records of progress, each an fsync: a kill costs this much work
NAMED_AT_MOST = 20  # skipped images in the manifest and the summary; all are in SKIPPED


class Output:
    """The growing image set: rows, labels, the skipped images, and the tally that a resumed run goes on from."""

    def __init__(self, work: ArtifactWriter, size: int):
        self._work = work
        start: dict[str, Any] = {
            "shards": 0,
            "read": 0,
            "grey": 0,
            "skipped": 0,
            "skipped_bytes": 0,
            "splits": {},
            "formats": {},
            "faces": {},
        }
        self.tally: dict[str, Any] = work.progress or start
        rows = sum(self.tally["splits"].values())
        self._images = NpyWriter(work.path / "images.npy", (size, size, 3), "uint8", rows=rows)
        self._labels = NpyWriter(work.path / "labels.npy", (), "int64", rows=rows)
        self._skipped = open(work.path / SKIPPED, "ab")
        self._skipped.truncate(self.tally["skipped_bytes"])
        self._skip([] if work.progress else [("name", "reason")])
        self._saved = time.monotonic()

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Closes the files; after an error the rows not yet recorded are cut off by the next run."""
        for file in (self._images, self._labels, self._skipped):
            file.close()

    def add(self, chunk: Chunk) -> None:
        """Appends a shard's images; records progress every few seconds."""
        self._images.append(chunk.images)
        self._labels.append(chunk.labels)
        self._skip(chunk.skipped)
        tally = self.tally
        tally["shards"] += 1
        tally["read"] += chunk.read
        tally["grey"] += chunk.grey
        tally["skipped"] += len(chunk.skipped)
        tally["splits"][chunk.split] = tally["splits"].get(chunk.split, 0) + len(chunk.labels)
        tally["formats"] = dict(sorted((Counter(tally["formats"]) + chunk.formats).items()))
        tally["faces"] = dict(sorted((Counter(tally["faces"]) + chunk.faces).items()))
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._images.sync()
            self._labels.sync()
            os.fsync(self._skipped.fileno())
            self._work.save(**tally)
            self._saved = time.monotonic()

    def _skip(self, rows: list[tuple[str, str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.tally["skipped_bytes"] += self._skipped.write(text.getvalue().encode("utf-8", "backslashreplace"))
        self._skipped.flush()

    def finish(self, plan: Plan, manifest: dict[str, Any]) -> None:
        tally = self.tally
        with open(self._work.path / SKIPPED, newline="", encoding="utf-8") as file:
            first = [row for row, _ in zip(csv.reader(file), range(NAMED_AT_MOST + 1), strict=False)][1:]
        splits, row = {}, 0
        for split, count in tally["splits"].items():
            if count:
                splits[split], row = [row, row + count], row + count
        if not row:
            why = f"; the first: {first[0][0]}: {first[0][1]}" if first else ""
            raise ImageError(f"{self._work.target}: not one image of {tally['read']:,} could be read{why}")
        counts = {"read": tally["read"], "written": row, "grey": tally["grey"], "skipped": tally["skipped"]}
        about = {"class_names": list(plan.class_names), "splits": splits, "counts": counts, "faces": tally["faces"]}
        self._work.finish(manifest | about | {"formats": tally["formats"], "first_skipped": first})


def summary(images: ImageSet) -> list[str]:
    """What prepare did, as lines for the terminal: counts, splits, notes, the first 20 skipped images."""
    about = images.manifest
    counts = {key: f"{value:,}" for key, value in about["counts"].items()}
    splits = ", ".join(f"{name} {end - first:,}" for name, (first, end) in images.splits.items())
    formats = ", ".join(f"{name} {count:,}" for name, count in about["formats"].items())
    height, width = images.images.shape[1:3]
    classes = f"{len(images.class_names):,} classes"
    lines = [
        f"{images.name}: {counts['written']} images of {width} x {height} ({splits}), {classes}",
        f"read {counts['read']} ({formats}), greyscale converted {counts['grey']}, skipped {counts['skipped']}",
        *_about_faces(about.get("faces") or {}),
        *about["notes"],
        *(f"skipped {name}: {reason}" for name, reason in about["first_skipped"]),
    ]
    more = about["counts"]["skipped"] - len(about["first_skipped"])
    return lines + ([f"and {more:,} more, all in {SKIPPED}"] if more > 0 else [])


def _about_faces(counts: dict[str, int]) -> list[str]:
    found = ", ".join(f"{name} {counts.get(name, 0):,}" for name in ("none", "one", "several"))
    return [f"faces in an image: {found}"] if counts else []


_AHEAD = 4  # tasks a worker: a slow shard at the head holds up nobody; 6 MB a worker at 32x32


def cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chunks(tasks: Sequence[Task], *, workers: int) -> Iterator[Chunk]:
    """The tasks' results, in the tasks' order whatever the number of workers; one worker is this process itself.

    Raises:
        EvalkitError: what a task raised, or a worker died.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        for task in tasks:
            yield task()
        return
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    running = [_Worker() for _ in range(workers)]
    for worker in running:
        idle.put(worker)
    threads = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[Chunk]] = deque()
        for task in tasks:
            waiting.append(threads.submit(_answered, idle, task))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in running:
            worker.end()
        threads.shutdown()


def _answered(idle: "queue.SimpleQueue[_Worker]", task: Task) -> Chunk:
    worker = idle.get()
    try:
        return worker.answer(task)
    finally:
        idle.put(worker)


class _Worker:
    """One decoding process."""

    def __init__(self) -> None:
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
        environment = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", "from evalkit.images.worker import main; main()"]
        pipe = subprocess.PIPE
        self._process: Any = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)

    def answer(self, task: Task) -> Chunk:
        try:
            pickle.dump(task, self._process.stdin, protocol=5)
            self._process.stdin.flush()
            chunk, error = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            raise EvalkitError(
                f"a decoding process ended with status {code} (-9: out of memory?); run again, it resumes; "
                "fewer --workers need less memory"
            ) from None
        if error is not None:
            raise error
        return chunk

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                stream.close()
            except OSError:  # unsent bytes to a process that is gone
                pass

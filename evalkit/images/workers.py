"""The decoding processes of prepare: shards in, decoded images out, in order and with a bounded number of shards ahead.

Our own processes instead of multiprocessing's: no fork of a process that runs torch's threads, no second import of the
user's main module, and no orphans: a worker ends when its standard input closes, even if its parent is killed.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalkit.errors import EvalkitError, ImageError
from evalkit.images.decode import decode_and_resize
from evalkit.images.interpreter import command, environment
from evalkit.images.options import FaceOptions, ResizeOptions
from evalkit.images.sources.base import Shard, SourceImage, reading

_TASKS_AHEAD = 4  # per worker: a slow shard does not make the other workers wait; 6 MB per worker at 32x32


@dataclass
class Chunk:
    """A shard's decoded images, uint8 (n, size, size, 3), and labels, int64 (n,), with counts and skipped images."""

    split: str
    images: np.ndarray
    labels: np.ndarray
    read: int = 0
    grey: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    faces: Counter[str] = field(default_factory=Counter)  # number of images with none, one and several faces


@dataclass(frozen=True)
class Task:
    """A shard and how to decode it. If `strict`, the first bad image raises ImageError."""

    shard: Shard
    resize: ResizeOptions
    strict: bool
    faces: FaceOptions | None = None

    def __call__(self) -> Chunk:
        """Decodes the shard's images in order."""
        chunk = Chunk(
            self.shard.split, np.empty((0, self.resize.size, self.resize.size, 3), np.uint8), np.empty(0, np.int64)
        )
        images: list[np.ndarray] = []
        labels: list[int] = []
        for image in _images(self.shard):
            chunk.read += 1
            try:
                if image.problem:
                    raise ImageError(image.problem)
                decoded = decode_and_resize(image.content, self.resize, self.faces)
            except ImageError as error:
                if self.strict:
                    raise ImageError(f"{image.name}: {error}; --strict stops at it") from None
                chunk.skipped.append((image.name, " ".join(str(error).split())))
                continue
            images += decoded.images
            labels += [image.label] * len(decoded.images)
            if self.faces:
                chunk.faces[("none", "one", "several")[min(len(decoded.images), 2)]] += 1
            chunk.formats[decoded.format] += 1
            chunk.grey += decoded.grey
        if images:
            chunk.images, chunk.labels = np.stack(images), np.array(labels, np.int64)
        return chunk


def _images(shard: Shard) -> Iterator[SourceImage]:
    """The images of a shard; damage of its file is one line."""
    source = getattr(shard, "path", getattr(shard, "root", shard.split))
    with reading(source, "a file of images"):
        yield from shard.read()


def num_cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoded_chunks(tasks: Sequence[Task], *, workers: int) -> Iterator[Chunk]:
    """The results of the tasks, in the order of the tasks for any number of workers; one worker is this process itself.

    Unless reading may kill the process, as that of a damaged LMDB may.

    Raises:
        EvalkitError: an error of a task, or a worker that died.
    """
    workers = min(workers, len(tasks))
    if workers <= 1 and not any(getattr(task.shard, "may_kill", False) for task in tasks):
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
            waiting.append(threads.submit(_answer, idle, task))
            if len(waiting) >= _TASKS_AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in running:
            worker.end()
        threads.shutdown()


def _answer(idle: "queue.SimpleQueue[_Worker]", task: Task) -> Chunk:
    worker = idle.get()
    try:
        return worker.answer(task)
    finally:
        idle.put(worker)


class _Worker:
    """A decoding process."""

    def __init__(self) -> None:
        pipe = subprocess.PIPE
        program = command("from evalkit.images.workers import main; main()")
        self._process: Any = subprocess.Popen(program, stdin=pipe, stdout=pipe, env=environment())

    def answer(self, task: Task) -> Chunk:
        try:
            pickle.dump(task, self._process.stdin, protocol=5)
            self._process.stdin.flush()
            chunk, error = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            raise EvalkitError(
                f"a decoding process ended with status {code} (-9: out of memory? -7, -11: a damaged file?); "
                "run again, it resumes; fewer --workers need less memory"
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
            except OSError:  # unsent bytes to a process that has ended
                pass


def main() -> None:
    """Answers pickled tasks with pickled (chunk, None) or (None, error) until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not garble the answers
    while True:
        try:
            task = pickle.load(sys.stdin.buffer)
        except (EOFError, pickle.UnpicklingError):  # the input ended, perhaps inside a task
            return
        answer: tuple[Chunk | None, Exception | None]
        try:
            answer = task(), None
        except Exception as error:  # sent to the parent, which raises it again
            answer = None, error
        try:
            pickle.dump(answer, answers, protocol=5)
            answers.flush()
        except BrokenPipeError:  # nobody is left to answer
            os._exit(0)  # not return: closing the pipe would fail again, aloud

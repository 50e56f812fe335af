"""A worker of prepare: reads one shard after another from standard input, answers with decoded images.

Started by pool.py as a process of its own; it ends by itself, at the end of its input, when the command that started it
is killed.
"""

import os
import pickle
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from evalkit.errors import ImageError
from evalkit.images.decode import ResizeOptions, decode_and_resize
from evalkit.images.faces import Faces
from evalkit.images.sources.base import Shard


@dataclass
class Chunk:
    """A shard's images, decoded: uint8 (n, size, size, 3), int64 (n,), and what there is to tell about the rest."""

    split: str
    images: np.ndarray
    labels: np.ndarray
    read: int = 0
    grey: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    faces: Counter[str] = field(default_factory=Counter)  # images with none, one and several


@dataclass(frozen=True)
class Task:
    """A shard and how to decode it. With `strict` the first bad image raises ImageError."""

    shard: Shard
    fit: ResizeOptions
    strict: bool
    faces: Faces | None = None

    def __call__(self) -> Chunk:
        """Decodes the shard's images in order."""
        chunk = Chunk(self.shard.split, np.empty((0, self.fit.size, self.fit.size, 3), np.uint8), np.empty(0, np.int64))
        images: list[np.ndarray] = []
        labels: list[int] = []
        for image in self.shard.read():
            chunk.read += 1
            try:
                if image.problem:
                    raise ImageError(image.problem)
                decoded = decode_and_resize(image.content, self.fit, self.faces)
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


def main() -> None:
    """Answers pickled tasks with pickled (chunk, None) or (None, error), until the input ends."""
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
        except Exception as error:  # handed on, raised again in the parent
            answer = None, error
        try:
            pickle.dump(answer, answers, protocol=5)
            answers.flush()
        except BrokenPipeError:  # nobody is left to answer
            os._exit(0)  # not return: closing the pipe would fail again, aloud

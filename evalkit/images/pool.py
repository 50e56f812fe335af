"""A pool of decoding processes whose answers come back in order, a bounded number of them ahead.

Processes of our own instead of multiprocessing's: no fork of a process that runs torch's threads, no re-import of the
user's main module, and no orphans when the command is killed (a worker ends with its standard input).
"""

import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.images.worker import Chunk, Task

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

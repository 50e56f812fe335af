"""A CSV file of measurements, each row with the state of the machine; and a timer."""

import csv
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sklearn
import torch

MACHINE = ("load_average", "peak_rss_gb", "threads", "torch", "sklearn", "cpu", "date")


class Table:
    """Appends rows to a CSV file; `columns` come before those of the machine."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns

    def add(self, *values: Any) -> None:
        """Appends one row, in the order of the columns."""
        cells = [f"{value:.4g}" if isinstance(value, float) else value for value in values]
        machine = [f"{os.getloadavg()[0]:.1f}", f"{peak_rss_gb():.2f}", torch.get_num_threads(), torch.__version__]
        machine += [sklearn.__version__, f"{cpu_name()} x {os.cpu_count()}", time.strftime("%Y-%m-%d")]
        new = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow([*self.columns, *MACHINE])
            writer.writerow([*cells, *machine])
        print(*cells, sep="  ", flush=True)


def peak_rss_gb() -> float:
    """Peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def cpu_name() -> str:
    """The processor's name and family: machines of the same name can differ twofold in speed."""
    info = Path("/proc/cpuinfo")
    pairs = [line.partition(":") for line in info.read_text().splitlines()] if info.exists() else []
    found = {name.strip(): value.strip() for name, _, value in pairs}
    return f"{found.get('model name', 'cpu')} family {found.get('cpu family', '?')}"


@contextmanager
def timed() -> Iterator[Callable[[], tuple[float, float]]]:
    """Yields a function that returns the (wall, CPU) seconds since the block began."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield lambda: (time.perf_counter() - wall, time.process_time() - cpu)

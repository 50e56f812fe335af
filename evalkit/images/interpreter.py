"""How fresh Python processes of our own are started: decoding workers, and readers of files that may kill a process."""

import os
import sys
from pathlib import Path


def command(code: str, *arguments: str) -> list[str]:
    """A Python that runs `code`, without the current folder on sys.path.

    That folder may be a downloaded data set with a pickle.py. PYTHONPATH stays, which -I would drop.
    """
    return [sys.executable, "-P", "-c", code, *arguments]


def environment() -> dict[str, str]:
    """The environment of such a process: it finds this evalkit, and runs one thread."""
    package = str(Path(__file__).resolve().parents[2])
    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]  # "": the current folder
    path = os.pathsep.join([package, *given])
    return os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

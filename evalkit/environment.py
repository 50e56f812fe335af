"""What evalkit runs on: versions, devices, memory, disk, and the data sets in a workspace."""

import os
import platform
import shutil
from pathlib import Path

import torch

from evalkit.images.datasets import list_datasets
from evalkit.runtime import describe_device, resolve_device, resolve_precision
from evalkit.version import versions
from evalkit.workspace import Workspace


def doctor(home: Workspace | Path | str) -> list[str]:
    """Versions, devices, memory, disk and data sets, as lines: what a bug report or the log of a run should say.

    Args:
        home: the workspace whose disk and data sets are described; it need not exist.
    """
    workspace = Workspace.of(home)
    device = resolve_device("auto")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    existing = next(path for path in (workspace.home.resolve(), *workspace.home.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    return [
        f"platform: {platform.platform()}",
        *(f"{name}: {version}" for name, version in versions().items()),
        f"device: {device} ({describe_device(device)}), precision {resolve_precision('auto', device)}",
        *_gpus(),
        f"memory: {memory:.1f} GiB, disk: {free:.1f} GiB free at {existing}",
        f"workspace: {workspace.home}, downloads: {workspace.downloads}",
        *list_datasets(workspace),
    ]


def _gpus() -> list[str]:
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"cuda:{index}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for index, gpu in enumerate(gpus)]

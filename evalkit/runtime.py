"""Devices, arithmetic, and the processes of a job: what training, extraction and the solver compute with.

`Ranks` is all that they need of torch.distributed. With one process its operations return what they are given, so that
callers are written once.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from evalkit.errors import EvalkitError

PRECISIONS = ("auto", "float32", "bfloat16")
_TIMEOUT = timedelta(minutes=30)  # how long a rank waits for another, e.g. for the one that writes a checkpoint


def resolve_device(name: str) -> torch.device:
    """The device of a name: `auto` (CUDA if there is one, else the CPU), or a name of torch's.

    Raises:
        EvalkitError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise EvalkitError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise EvalkitError(f"device {name!r}: evalkit runs on cpu and cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EvalkitError(f"device {name!r}: torch sees {torch.cuda.device_count()} CUDA devices; use --device cpu")
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """The arithmetic: for `auto` bfloat16 where the hardware multiplies it faster than float32, else float32."""
    if name not in PRECISIONS:
        raise EvalkitError(f"precision {name!r}: expected {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    return "bfloat16" if _multiplies_bfloat16(device) else "float32"


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager:
    """A context in which convolutions and matrix products run in `precision`; weights stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def describe_device(device: torch.device) -> str:
    """The device's product name, as results hold it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else "CPU"


class Ranks:
    """The processes that share a job.

    Args:
        distributed: whether to join the default process group (as `torchrun` starts it); else this process is alone.
    """

    def __init__(self, *, distributed: bool = False) -> None:
        self.count = dist.get_world_size() if distributed else 1
        self.number = dist.get_rank() if distributed else 0

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and messages."""
        return self.number == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place, the same bits on every rank."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its mean over ranks, in one all-reduce."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def concatenate(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks along their first dimension, in the order of ranks."""
        if self.count == 1:
            return tensor
        lengths = self.objects(len(tensor))
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def objects(self, value: Any) -> list[Any]:
        """A small Python value from every rank, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Returns when every rank has called it."""
        if self.count > 1:
            dist.barrier()


ALONE = Ranks()


def under_torchrun() -> bool:
    """Whether `torchrun` (or the like) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks that `torchrun` started, connected while the block runs; without torchrun, this process alone.

    Raises:
        EvalkitError: only some of torchrun's variables are set, or the processes do not find each other.
    """
    if not under_torchrun() or dist.is_initialized():
        yield Ranks(distributed=dist.is_initialized())
        return
    try:
        if device.type == "cuda":
            torch.cuda.set_device(local_device(device))  # NCCL sends Python values by the current GPU
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise EvalkitError(f"WORLD_SIZE is set, yet the processes cannot be joined ({reason}); use torchrun") from None
    try:
        yield Ranks(distributed=True)
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """`cuda` as this rank's own GPU; any other device as it is."""
    if device.type == "cuda" and device.index is None and under_torchrun():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device

"""Which device and which arithmetic to compute with."""

from contextlib import AbstractContextManager, nullcontext

import torch

from evalkit.errors import EvalkitError

PRECISIONS = ("auto", "float32", "bfloat16")


def resolve_device(name: str) -> torch.device:
    """`auto` (CUDA when there is one, else the CPU), or a device by torch's name.

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
    """`auto` becomes bfloat16 where the hardware multiplies it faster than float32, else float32."""
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
    """The device's product name, as results carry it."""
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

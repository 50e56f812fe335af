"""A simulated GPU for machines without one: its tensors report cuda:0 and refuse operations with CPU tensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_aten = torch.ops.aten
_ACROSS = {_aten.copy_.default, _aten._to_copy.default}  # may mix devices


class _OnGPU(torch.Tensor):
    """Reports cuda:0 and wraps an ordinary tensor."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "_OnGPU":
        place = {"strides": held.stride(), "storage_offset": held.storage_offset(), "device": "cuda:0"}
        made = torch.Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, **place)
        made.held = held
        return made

    def tolist(self) -> list:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    on_gpu = any(isinstance(each, _OnGPU) for each in tensors)
    on_cpu = any(not isinstance(each, _OnGPU) and each.dim() for each in tensors)
    if on_gpu and on_cpu and operation not in _ACROSS:
        raise RuntimeError(f"{operation}: expected all tensors on one device, found cuda:0 and cpu")
    if kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type == "cuda"
        kwargs = {**kwargs, "device": "cpu"}
    given = tree_map(lambda each: each.held if isinstance(each, _OnGPU) else each, (args, kwargs))
    result = operation(*given[0], **given[1])
    if operation is _aten.copy_.default or "out" in kwargs or operation.__name__.split(".")[0].endswith("_"):
        return kwargs.get("out", args[0])
    return tree_map(lambda each: _OnGPU(each) if isinstance(each, torch.Tensor) else each, result) if on_gpu else result


@contextmanager
def gpu(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> Iterator[torch.device]:
    """A device cuda:0 that reports so much free memory: the real one where there is one, else a simulated one."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, free_bytes))
    if torch.cuda.is_available():
        yield torch.device("cuda:0")
        return
    torch._C._ensureCUDADeviceGuardSet()
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    for name in ("tensor", "as_tensor"):  # implemented in C++, which the mode does not intercept
        original = getattr(torch, name)

        def made(value: Any, *, device: Any = None, original: Any = original, **settings: Any) -> torch.Tensor:
            made = value.to(**settings) if isinstance(value, torch.Tensor) else original(value, **settings)
            return made if device is None else made.to(device)

        monkeypatch.setattr(torch, name, made)
    with _Mode():
        yield torch.device("cuda:0")

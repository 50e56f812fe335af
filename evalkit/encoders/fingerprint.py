"""What an own network's outputs depend on, as a hash: its code, the code that it uses, what its modules hold, outputs.

Equal hashes must mean equal features, since extract returns what is on disk for equal hashes. Weights are not enough:
a module may hold tensors that are no parameters, numbers, functions, and call code of other files.
"""

import hashlib
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping, Set
from functools import cache, partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evalkit.encoders.encoder import Encoder, whole
from evalkit.weights_files import is_empty_shell

_PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath, torch.dtype, torch.device, torch.Size, range)
_SKIPPED = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__", "training"}
# equal values of these may be one object or several, from one run to the next
_UNTRACKED = (*_PLAIN, tuple, frozenset, types.CodeType, types.MethodType, partial)
_WRAPPERS = (
    "__func__",
    "fget",
    "func",
    "__wrapped__",
)  # of static methods, properties, cached properties and functions
_PROBE = 2  # images


def fingerprint(*values: Any) -> str:
    """Hash of values as code sees them: modules with all they hold, functions with what they refer to.

    What is of Python's library or of an installed package counts by its name alone.
    """
    digest = hashlib.sha256()
    seen: dict[int, int] = {}
    kept = []  # so that no id is used twice
    stack = list(reversed(values))
    while stack:
        value = stack.pop()
        if not isinstance(value, _UNTRACKED) and id(value) in seen:
            digest.update(b"again %d;" % seen[id(value)])
            continue
        seen[id(value)] = len(seen)
        kept.append(value)
        head, parts = _taken_apart(value)
        digest.update(b"%d %d:" % (len(head), len(parts)) + head)
        stack += reversed(parts)
    return digest.hexdigest()


def _taken_apart(value: Any) -> tuple[bytes, list[Any]]:
    """What a value is, and the values that it consists of."""
    kind = type(value).__qualname__.encode()
    if isinstance(value, _PLAIN):
        return kind + repr(value).encode("utf-8", "backslashreplace"), []
    if isinstance(value, Tensor):
        return _of_tensor(value), []
    if isinstance(value, np.ndarray):
        content = b"" if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
        return f"{value.dtype.str}{value.shape}".encode() + content, list(value.flat) if value.dtype.hasobject else []
    if isinstance(value, Mapping):
        return kind, [part for pair in value.items() for part in pair]
    if isinstance(value, Set):
        return kind, sorted(map(fingerprint, value))
    if isinstance(value, (list, tuple)):
        return kind, list(value)
    if isinstance(value, (types.FunctionType, types.MethodType, types.CodeType, type, types.ModuleType, partial)):
        return _of_code(value)
    return _of_object(value)


def _of_tensor(tensor: Tensor) -> bytes:
    try:
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    except (RuntimeError, NotImplementedError, TypeError):  # sparse, quantised, without numbers
        plain = b"" if is_empty_shell(tensor) else repr(tensor.detach().cpu()).encode()
    return f"{tensor.dtype}{tuple(tensor.shape)}".encode() + plain


def _of_code(value: Any) -> tuple[bytes, list[Any]]:
    if isinstance(value, partial):
        return b"partial", [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return b"method", [value.__func__, value.__self__]
    if isinstance(value, types.CodeType):
        return b"code" + value.co_code, [*value.co_consts, value.co_names, value.co_varnames]
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}{value.__name__}".encode()
    if is_installed(value):
        return name, []
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return b"function", [value.__code__, value.__defaults__, value.__kwdefaults__, *cells, *_globals_of(value)]
    if isinstance(value, types.ModuleType):
        return b"module", [part for name, part in vars(value).items() if not name.startswith("__")]
    members = [part for name, part in vars(value).items() if name not in _SKIPPED]
    return b"class" + str([name for name in vars(value) if name not in _SKIPPED]).encode(), [*value.__bases__, *members]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _globals_of(function: types.FunctionType) -> Iterator[Any]:
    """The global values that a function, or a function inside it, names."""
    codes: list[types.CodeType] = [function.__code__]
    names: list[str] = []
    while codes:
        code = codes.pop()
        names += code.co_names
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    yield from (function.__globals__[name] for name in dict.fromkeys(names) if name in function.__globals__)


def _of_object(value: Any) -> tuple[bytes, list[Any]]:
    """An object by its class and what it holds; one of Python's library by what it would be copied from."""
    kind = type(value)
    name = str(getattr(value, "__qualname__", None) or getattr(value, "__name__", "")).encode()  # of a builtin function
    if kind.__module__.partition(".")[0] in sys.stdlib_module_names and not isinstance(value, types.SimpleNamespace):
        parts = [getattr(value, each) for each in _WRAPPERS if hasattr(value, each)]
        return kind.__qualname__.encode() + name, parts + _reduced(value)
    held = dict(getattr(value, "__dict__", {}))
    slots = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ()) if isinstance(name, str)]
    held |= {name: getattr(value, name) for name in slots if hasattr(value, name) and name not in _SKIPPED}
    parts = [part for key, part in held.items() if key not in _SKIPPED for part in (key, part)]
    return b"object" + name, [kind, *parts]


def _reduced(value: Any) -> list[Any]:
    """What `copy` would make an object of again; empty for what cannot be copied, such as locks and files."""
    try:
        made_of = value.__reduce_ex__(2)
    except Exception:
        return []
    return [made_of] if isinstance(made_of, str) else [list(x) if isinstance(x, Iterator) else x for x in made_of]


def is_installed(value: Any) -> bool:
    """Whether code is of Python's library, of an installed package or of evalkit, and not the user's own."""
    module = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    return not module or _is_installed(str(module))


@cache
def _libraries() -> tuple[str, ...]:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    torch_and_evalkit = {str(Path(torch.__file__).parents[1]), str(Path(__file__).resolve().parents[1])}
    return tuple(str(Path(each).resolve()) + "/" for each in folders | torch_and_evalkit)


@cache
def _is_installed(module: str) -> bool:
    if module.partition(".")[0] in {*sys.stdlib_module_names, *sys.builtin_module_names, "torch", "evalkit"}:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return file != "" and str(Path(file).resolve()).startswith(_libraries())


def source_of(value: Any) -> bytes:
    """The text of the file that defines a module; empty where there is none."""
    source = Path(inspect.getsourcefile(value) or "")
    return source.read_bytes() if source.is_file() else b""


def outputs_sha256(encoder: Encoder, height: int, width: int) -> str:
    """Hash of the outputs of all layers of own code for two fixed images of that size.

    Empty for evalkit's own networks, and where the network fails on the images.

    Computed on the CPU by one thread, so that it is the same in every process on a machine. It sees what no look at
    the code does: files that `forward` reads, versions of libraries, environment variables.
    """
    if not encoder.own_code:
        return ""
    pixels = np.random.default_rng(0).integers(0, 256, (_PROBE, height, width, 3), dtype=np.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            images = encoder.preprocessing(torch.from_numpy(pixels))
            outputs = encoder.network.cpu()(images, None, whole)
    except Exception:  # other people's code; the extraction says what is wrong
        return ""
    finally:
        torch.set_num_threads(threads)
    return fingerprint({name: value.float() for name, value in outputs.items()})

"""The version of evalkit, and the versions of the packages that a result depends on."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

__version__ = "0.1.0"

_PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "pillow")


def versions() -> dict[str, str]:
    """Versions of Python, evalkit and the packages that can change a number, as manifests hold them."""
    packages = {name: version(name) for name in _PACKAGES}
    return {"evalkit": __version__, "python": platform.python_version(), **packages}


def stamps() -> dict[str, Any]:
    """The columns `versions` and `date` of a result."""
    installed = versions()
    named = " ".join(f"{name} {installed[name]}" for name in ("evalkit", "torch", "numpy"))
    return {"versions": named, "date": datetime.now(UTC).date().isoformat()}
